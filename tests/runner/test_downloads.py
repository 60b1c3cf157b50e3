"""Downloads, which take no slot of a Runner."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.runner.downloads import Downloads, Postponed
from serve_app.runner.limits import RunnerLimits
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App, open_app

OTHER = Principal("other", "u")
URL = JobSpec("fake", url="http://1.1.1.1/a", max_attempts=1)


@dataclass
class Source:
    """Web server whose downloads last until they are let go."""

    app: App
    content: bytes
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    running: set[str] = field(default_factory=set)
    fetched: list[str] = field(default_factory=list)
    most: int = 0

    async def fetch(self, request: FetchRequest) -> StoredSource:
        self.running.add(request.key)
        self.most = max(self.most, len(self.running))
        await self.finish.wait()
        self.running.discard(request.key)
        self.fetched.append(request.key)
        self.app.artifacts.put(request.key, self.content)
        return StoredSource(request.key, len(self.content))

    async def until_running(self, count: int) -> None:
        while len(self.running) < count:  # noqa: ASYNC110 - a fetch tells nobody
            await asyncio.sleep(0.01)


async def submitted(app: App, principal: Principal, spec: JobSpec) -> str:
    async with app.jobs.draft(principal) as draft:
        return (await draft.submit(spec)).id


@pytest.fixture
async def narrow(store: Store, artifacts: Artifacts, ffmpeg: str) -> AsyncIterator[App]:
    """A Runner with two slots and three downloads a tenant."""
    limits = RunnerLimits(jobs=2, downloads=5, tenant_downloads=3)
    async with open_app(store, artifacts, ffmpeg, limits=limits) as app:
        yield app


@pytest.fixture
def source(narrow: App, sample: Path) -> Source:
    source = Source(narrow, sample.read_bytes())
    narrow.stages.fetch = source.fetch  # type: ignore[method-assign]
    return source


async def test_downloads_that_never_end_keep_no_upload_of_another_tenant_waiting(
    narrow: App, source: Source, sample: Path
) -> None:
    stuck = [await submitted(narrow, ME, URL) for _ in range(12)]
    await source.until_running(3)
    async with narrow.jobs.draft(OTHER) as draft:
        narrow.artifacts.put(draft.source, sample.read_bytes())
        job_id = (await draft.submit(JobSpec("fake"))).id
    async for event in await narrow.jobs.follow(OTHER, job_id, "0"):
        if event.kind is EventKind.DONE:
            break
    assert (await narrow.jobs.get(OTHER, job_id)).phase is Phase.COMPLETED
    assert not [job for job in await narrow.store.jobs.get_many(stuck) if job and job.phase.final]


async def test_a_tenant_downloads_only_so_much_at_once_and_another_downloads_beside_it(narrow: App, source: Source) -> None:
    jobs = [await submitted(narrow, ME, URL) for _ in range(6)]
    await source.until_running(3)
    other = await submitted(narrow, OTHER, URL)
    await source.until_running(4)
    assert source.most == 4
    source.finish.set()
    for job_id in jobs:
        job = await narrow.ended(job_id)
        assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
    while not (await narrow.jobs.get(OTHER, other)).phase.final:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_job_whose_download_ends_while_all_slots_are_taken_waits_in_the_queue_with_its_source(
    narrow: App, source: Source, sample: Path
) -> None:
    fetched = await submitted(narrow, ME, URL)
    await source.until_running(1)
    narrow.stages.gate = asyncio.Semaphore(0)
    running = [await narrow.submit(sample) for _ in range(2)]
    for job_id in running:
        await narrow.until_phase(job_id, Phase.TRANSCRIBING)
    source.finish.set()
    while (await narrow.jobs.get(ME, fetched)).phase is not Phase.QUEUED:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert (await narrow.jobs.get(ME, fetched)).attempts == 0
    for _ in range(100):
        narrow.stages.gate.release()
    job = await narrow.ended(fetched)
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
    assert len(source.fetched) == 1


def test_a_refused_download_comes_back_later_each_time() -> None:
    downloads = Downloads(places=2, per_tenant=1)
    with downloads.place("a", "t"):
        delays = []
        for _ in range(12):
            with pytest.raises(Postponed) as refused, downloads.place("b", "t"):
                pass
            delays.append(refused.value.delay_s)
        assert 0 < delays[0] < delays[-1]
        with downloads.place("c", "u"), pytest.raises(Postponed), downloads.place("d", "v"):
            pass
    assert downloads.running == 0
