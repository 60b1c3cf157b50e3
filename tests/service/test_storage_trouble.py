"""Storage that is slow, full or away, behind the API and a Runner."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path

import pytest

from deployments.errors import StorageFull, StorageUnavailable
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import FetchRequest
from serve_app.http.uploads import receive_raw
from serve_app.models.job import Job, JobSpec
from serve_app.models.storage_paths import transcript_key
from tests.lib.app import ME, App
from tests.lib.loop_monitor import monitored_loop
from tests.lib.power import watched_disk
from tests.lib.slow_storage import SlowArtifacts
from tests.lib.slow_upload import END, file, posting
from tests.lib.web_server import answer, serving
from tests.service.conftest import Served

CALL_S = 0.25  # of a slow storage
AWAY = OSError(errno.EIO, "the disk is gone")
FULL = OSError(errno.ENOSPC, "no space left on device")


@pytest.fixture
def artifacts(tmp_path: Path) -> SlowArtifacts:
    return SlowArtifacts(tmp_path / "artifacts")


async def ended(served: Served, sample: Path) -> str:
    """Upload a recording and wait for its end; the id of the job."""
    form = {"file": ("talk.flac", await asyncio.to_thread(sample.read_bytes))}
    job_id: str = (await served.http.post("/v1/jobs", files=form)).json()["id"]
    events = await served.http.get(f"/v1/jobs/{job_id}/events")
    assert '"completed"' in events.text
    return job_id


async def way_of_a_job(served: Served, sample: Path) -> None:
    """Upload, transcription, transcript, download, list, deletion."""
    job_id = await ended(served, sample)
    for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/transcript", "/v1/jobs"):
        assert (await served.http.get(path)).status_code == 200
    for name in ("source", "audio.wav", "transcript.jsonl"):
        response = await served.http.get(f"/v1/jobs/{job_id}/artifacts/{name}")
        assert len(response.content) == int(response.headers["content-length"]) > 1000
    assert (await served.http.delete(f"/v1/jobs/{job_id}")).status_code == 204


async def test_no_loop_stands_still_while_storage_is_slow(served: Served, artifacts: SlowArtifacts, sample: Path) -> None:
    await way_of_a_job(served, sample)  # warm: imports, models and caches
    artifacts.delay_s, artifacts.calls = CALL_S, 0
    stalls_s = []
    for _ in range(3):  # a busy machine stalls a loop, too, but not every time
        async with monitored_loop() as loop:
            await way_of_a_job(served, sample)
        assert artifacts.calls > 20
        assert not artifacts.in_loops, artifacts.in_loops[0]
        stalls_s.append(loop.longest_s)
        if loop.longest_s < CALL_S / 2:
            break
    artifacts.delay_s = 0.0
    assert min(stalls_s) < CALL_S / 2


async def test_an_upload_below_the_free_space_is_refused_before_its_body(served: Served, artifacts: SlowArtifacts) -> None:
    artifacts._min_free_bytes = 1 << 60
    async with posting(f"{served.url}/v1/jobs", 1 << 20) as request:
        assert await request.status() == 507
        assert '"storage_full"' in await request.text()
        assert request.headers["retry-after"]
    assert artifacts.keys("jobs") == []


async def test_an_upload_that_would_leave_too_little_space_is_refused(served: Served, artifacts: SlowArtifacts) -> None:
    free = artifacts.free_bytes()
    assert free is not None
    artifacts._min_free_bytes = free - (4 << 20)
    response = await served.http.post("/v1/jobs", content=bytes(7 << 20), headers={"Content-Type": "audio/wav"})
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")


async def test_a_disk_that_fills_up_during_an_upload_is_507_and_leaves_nothing(
    served: Served, artifacts: SlowArtifacts, tmp_path: Path
) -> None:
    async with posting(f"{served.url}/v1/jobs", (2 << 20) + len(END) + len(file("file"))) as request:
        await request.send(file("file"), bytes(1 << 20))
        while not any(part.stat().st_size for part in (tmp_path / "artifacts/parts").glob("*")):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        artifacts.trouble = FULL
        await request.send(bytes(1 << 20), END)
        assert await request.status() == 507
        assert '"storage_full"' in await request.text()
    artifacts.trouble = None
    assert artifacts.keys("jobs") == []
    assert (await served.http.post("/v1/jobs", content=b"x", headers={"Content-Type": "audio/wav"})).status_code == 202


async def test_requests_are_503_while_the_storage_is_away(served: Served, artifacts: SlowArtifacts, sample: Path) -> None:
    job_id = await ended(served, sample)
    artifacts.trouble = AWAY
    for path in (f"/v1/jobs/{job_id}/transcript", f"/v1/jobs/{job_id}/artifacts/source"):
        response = await served.http.get(path)
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert response.headers["retry-after"]
    form = {"file": ("talk.flac", b"sound")}
    assert (await served.http.post("/v1/jobs", files=form)).status_code == 503
    artifacts.trouble = None
    assert (await served.http.get(f"/v1/jobs/{job_id}/transcript")).status_code == 200


async def test_events_of_an_old_job_wait_for_the_storage(served: Served, artifacts: SlowArtifacts, sample: Path) -> None:
    job = await served.app.ended(await served.app.submit(sample))
    live = [event for event in await served.app.follow(job.id) if event.kind == "segment"]
    await served.app.store.upkeep.drop_old_streams(-1.0)
    artifacts.trouble, artifacts.calls = AWAY, 0
    following = asyncio.create_task(served.app.follow(job.id))
    while artifacts.calls < 2:  # noqa: ASYNC110 - a storage has no event for it
        await asyncio.sleep(0.01)
    artifacts.trouble = None
    assert [event for event in await following if event.kind == "segment"] == live


async def test_a_source_is_not_fetched_onto_a_full_disk(artifacts: SlowArtifacts) -> None:
    ingestion = Ingestion(artifacts, SafeHttp(allowed := AllowList.parse(["127.0.0.1"])), Buckets(allowed))
    async with serving() as site:
        site.replies["/song"] = answer(200, bytes(100))
        artifacts._min_free_bytes = 1 << 60
        with pytest.raises(StorageFull):
            await ingestion.fetch(FetchRequest(site.url("/song"), "jobs/j/source", 1000))
        assert site.paths == []
        artifacts._min_free_bytes = 0
        artifacts.trouble = AWAY
        with pytest.raises(StorageUnavailable):
            await ingestion.fetch(FetchRequest(site.url("/song"), "jobs/j/source", 1000))


async def accepted(app: App, content: bytes) -> str:
    """Submit an upload, as a route does."""
    async with app.jobs.draft(ME) as draft:
        await receive_raw(_body(content), app.artifacts, draft.source, len(content))
        return (await draft.submit(JobSpec("fake"))).id


async def _body(content: bytes):  # type: ignore[no-untyped-def]
    yield content


async def test_every_accepted_job_and_every_transcript_survives_a_power_cut(app: App, sample: Path, tmp_path: Path) -> None:
    content = await asyncio.to_thread(sample.read_bytes)
    with watched_disk() as disk:
        jobs: list[Job] = []
        for job_id in [await accepted(app, content) for _ in range(3)]:
            assert disk.after_power_cut(tmp_path)[f"artifacts/jobs/{job_id}/source"] == content
            jobs.append(await app.ended(job_id))
        survivors = disk.after_power_cut(tmp_path)
    for job in jobs:
        assert job.transcript is not None
        key = transcript_key(job.id, job.transcript)
        assert survivors[f"artifacts/{key}"] == app.artifacts.read(key)
