"""Private jobs: the URL is forgotten once fetched, and the audio once the job has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx_sse
import pytest

from serve_app.dialects.speechischeap.routes import PREFIX
from serve_app.dialects.speechischeap.translate import MASK
from serve_app.http.auth import ANONYMOUS
from serve_app.models.job import Job, Phase
from serve_app.runner.sweeper import Sweeper
from tests.lib.web_server import WebServer, answer
from tests.service.conftest import Served

SECRET = "/secret-place.flac"


@pytest.fixture
def secret_site(site: WebServer, sample: Path) -> WebServer:
    """Web server with a recording at a secret URL."""
    site.replies[SECRET] = answer(200, sample.read_bytes())
    return site


async def private(served: Served, url: str, **options: Any) -> str:
    body = {"input_url": url, "is_private": True, **options}
    made = await served.http.post(PREFIX, json=body)
    assert made.status_code == 202, made.text
    return str(made.json()["id"])


async def ended(served: Served, job_id: str) -> Job:
    """Wait until a job has ended and its audio is deleted."""
    async for _ in await served.app.jobs.follow(ANONYMOUS, job_id, "0"):
        pass
    async with asyncio.timeout(30):
        while files(served) - {"transcript"} or (await stored(served, job_id)).spec.url:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return await stored(served, job_id)


def files(served: Served) -> set[str]:
    """Kinds of files in the artifacts, without numbers of parts and claims."""
    return {key.split("/")[2].split(".")[0] for key in served.app.artifacts.keys("jobs")}


async def stored(served: Served, job_id: str) -> Job:
    job = await served.app.store.jobs.get(job_id)
    assert job
    return job


async def until(served: Served, job_id: str, phase: Phase) -> None:
    async with asyncio.timeout(20):
        while (await stored(served, job_id)).phase is not phase:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def redis_dump(served: Served) -> str:
    """Dump all hashes and streams in Redis."""
    redis, dump = served.app.store._redis, ""
    async for key in redis.scan_iter("*"):
        kind = await redis.type(key)
        if kind == b"hash":
            dump += str(await redis.hgetall(key))
        elif kind == b"stream":
            dump += str(await redis.xrange(key))
    return dump


async def test_a_private_job_keeps_only_its_transcript(served: Served, secret_site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    job_id = await private(served, secret_site.url(SECRET))
    await until(served, job_id, Phase.TRANSCRIBING)
    assert "source" in files(served)
    assert "secret-place" not in await redis_dump(served)
    assert (await served.http.get(f"/v1/jobs/{job_id}")).json()["artifacts"] == []
    for _ in range(20):
        served.app.stages.gate.release()
    job = await ended(served, job_id)
    assert (job.phase, job.spec.result_ttl_s) == (Phase.COMPLETED, 43_200)
    assert files(served) == {"transcript"}
    response = await served.http.get(f"/v1/jobs/{job_id}")
    assert [file["name"] for file in response.json()["artifacts"]] == ["transcript.jsonl"]
    assert "secret-place" not in response.text
    for name in ("source", "audio.wav"):
        assert (await served.http.get(f"/v1/jobs/{job_id}/artifacts/{name}")).status_code == 404
    body = (await served.http.get(f"{PREFIX}/{job_id}")).json()
    assert (body["status"], bool(body["output"]["segments"])) == ("COMPLETED", True)


async def test_its_stream_masks_the_url(served: Served, secret_site: WebServer) -> None:
    body = {"input_url": secret_site.url(SECRET), "is_private": True, "can_stream_output": True}
    async with httpx_sse.aconnect_sse(served.http, "POST", PREFIX, json=body) as source:
        events = [event async for event in source.aiter_sse()]
    assert events[0].json()["request"] == body | {"input_url": MASK}
    assert not any("secret-place" in event.data for event in events)


async def test_a_failed_private_job_is_forgotten(served: Served, secret_site: WebServer) -> None:
    secret_site.replies["/secret-noise"] = answer(200, b"this is no sound")
    for path in ("/secret-noise", "/secret-missing"):
        job = await ended(served, await private(served, secret_site.url(path)))
        assert job.phase is Phase.FAILED
        assert path.strip("/") not in await redis_dump(served)
    assert files(served) == set()


async def test_a_cancelled_private_job_is_forgotten(served: Served, secret_site: WebServer) -> None:
    served.app.stages.gate = asyncio.Semaphore(0)
    ids = [await private(served, secret_site.url(SECRET)) for _ in range(10)]
    for job_id in ids[:7]:  # of eight slots, one is kept for tenants with less than their share
        await until(served, job_id, Phase.TRANSCRIBING)
    await until(served, ids[-1], Phase.QUEUED)
    assert (await served.http.delete(f"{PREFIX}/{ids[-1]}")).status_code == 200
    assert (await stored(served, ids[-1])).spec.url is None
    for job_id in ids[:-1]:
        assert (await served.http.delete(f"{PREFIX}/{job_id}")).status_code == 200
    for job_id in ids:
        assert (await ended(served, job_id)).phase is Phase.CANCELLED
    assert "secret-place" not in await redis_dump(served)


async def test_a_private_upload_is_forgotten(served: Served, sample: Path) -> None:
    form = {"is_private": "true"}
    await served.http.post(PREFIX, files={"input_file": ("talk.flac", sample.read_bytes())}, data=form)
    jobs, _ = await served.app.jobs.page(ANONYMOUS, limit=1, cursor=None)
    assert (await ended(served, jobs[0].id)).phase is Phase.COMPLETED
    assert files(served) == {"transcript"}


async def test_late_writes_of_a_worker_are_swept(
    served: Served, secret_site: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await private(served, secret_site.url(SECRET))
    await ended(served, job_id)
    served.app.artifacts.put(f"jobs/{job_id}/pcm/00000", b"late")
    monkeypatch.setattr("serve_app.runner.sweeper.STRAGGLER_S", 0.0)
    await Sweeper(served.app.store, served.app.artifacts, period_s=1.0, stream_grace_s=3600).sweep()
    assert files(served) == {"transcript"}
    assert await served.app.store.upkeep.private_ended(0.0) == []


async def test_the_audio_of_other_jobs_is_kept(served: Served, secret_site: WebServer) -> None:
    made = await served.http.post(PREFIX, json={"input_url": secret_site.url(SECRET)})
    async for _ in await served.app.jobs.follow(ANONYMOUS, made.json()["id"], "0"):
        pass
    assert {"source", "pcm", "transcript"} <= files(served)
    assert (await stored(served, made.json()["id"])).spec.url == secret_site.url(SECRET)


async def test_a_private_job_is_kept_no_longer_than_the_operator_allows(served: Served, sample: Path) -> None:
    served.app.jobs.max_result_ttl_s = served.app.jobs._rules._max_result_ttl_s = 600
    files = {"input_file": ("talk.flac", sample.read_bytes())}
    response = await served.http.post("/v2/jobs", data={"is_private": "true"}, files=files)
    assert response.status_code == 200, response.text
    (job,) = (await served.http.get("/v1/jobs")).json()["jobs"]
    stored = await served.app.store.jobs.get(job["id"])
    assert stored
    assert stored.ttl_s == 600
