"""Trouble of Redis, of the storage and of deployments, which costs no attempt."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError

from deployments.errors import StageUnavailable, StorageFull, StorageUnavailable
from deployments.messages import TranscodeProgress, TranscodeRequest
from serve_app.errors import StoreUnavailable
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import CommitOutcome
from serve_app.ray_serve.stages import _as_work_error
from serve_app.runner.patience import FULL_S
from tests.lib.app import ME, App

ONCE = JobSpec("fake", segment_duration=6.0, max_attempts=1)
OUTAGES = [StoreUnavailable("gone"), StorageUnavailable("gone"), StorageFull("full"), StageUnavailable("gone")]


@pytest.mark.parametrize("error", OUTAGES[1:], ids=lambda error: type(error).__name__)
def test_an_outage_of_a_stage_crosses_processes_as_itself(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.message) == (type(error), str(error))
    assert type(_as_work_error(RayTaskError("transcribe", "", error))) is type(error)


async def completed_once(app: App, job_id: str) -> None:
    """The job completes in its first attempt, and each window is decoded once."""
    job = await app.ended(job_id)
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1), job.error
    assert sorted(app.stages.decoded) == list(range(job.checkpoint.next_window))
    ids = [segment.id for segment in (await app.jobs.transcript(ME, job_id)).segments]
    assert ids == list(range(len(ids)))


@pytest.mark.parametrize("method", ["commit", "enter", "note_audio", "finish", "give_back"])
async def test_a_write_is_repeated_until_redis_is_back(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain, outages = getattr(app.store.leases, method), iter(range(4))

    async def failing(*arguments: Any, **options: Any) -> Any:
        if next(outages, None) is not None:
            raise StoreUnavailable("gone")
        return await plain(*arguments, **options)

    monkeypatch.setattr(app.store.leases, method, failing)
    await completed_once(app, await app.submit(sample, ONCE))


async def test_a_commit_whose_reply_was_lost_is_committed_once(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = app.store.leases.commit
    lost = iter(range(3))

    async def losing(*arguments: Any) -> Any:
        outcome = await plain(*arguments)
        if next(lost, None) is not None:
            raise StoreUnavailable("gone")
        return outcome

    monkeypatch.setattr(app.store.leases, "commit", losing)
    await completed_once(app, await app.submit(sample, ONCE))


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
async def test_a_decode_is_repeated_until_what_it_needs_is_back(app: App, sample: Path, error: Exception) -> None:
    errors = iter([error] * 4)
    app.stages.trouble = lambda request: next(errors, None) if request.window.index == 2 else None
    await completed_once(app, await app.submit(sample, ONCE))


@pytest.mark.parametrize("error", OUTAGES[1:], ids=lambda error: type(error).__name__)
async def test_a_transcoder_that_loses_the_storage_goes_on_where_it_was(app: App, sample: Path, error: Exception) -> None:
    plain, messages = app.stages.windows, iter(range(6))

    async def failing(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        async for planned in plain(request):
            yield planned
            if next(messages, 1) % 2 == 0:
                raise error

    app.stages.windows = failing  # type: ignore[method-assign]
    await completed_once(app, await app.submit(sample, ONCE))


async def test_a_transcript_is_written_once_the_storage_is_back(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, errors = app.artifacts.writer, iter([StorageFull("full")] * 3)

    def failing(key: str, **options: Any) -> Any:
        if "transcript" in key and (error := next(errors, None)):
            raise error
        return plain(key, **options)

    monkeypatch.setattr(app.artifacts, "writer", failing)
    await completed_once(app, await app.submit(sample, ONCE))


@pytest.mark.parametrize("error", OUTAGES[1:], ids=lambda error: type(error).__name__)
async def test_a_long_outage_gives_the_job_back_at_no_cost(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("serve_app.runner.patience.IN_PLACE_S", 0.0)
    monkeypatch.setattr("serve_app.runner.patience.FULL_S", 0.2)
    errors = iter([error] * 5)
    app.stages.trouble = lambda request: next(errors, None) if request.window.index == 2 else None
    job = await app.ended(await app.submit(sample, ONCE))
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)


async def test_a_full_storage_stops_claims_until_it_has_room(app: App, sample: Path) -> None:
    full, waiting = True, asyncio.Event()

    def trouble(_: object) -> Exception | None:
        waiting.set()
        return StorageFull("full") if full else None

    app.stages.trouble = trouble
    plain = app.stages.windows

    async def windows(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        if full:
            waiting.set()
            raise StorageFull("full")
        async for planned in plain(request):
            yield planned

    app.stages.windows = windows  # type: ignore[method-assign]
    first = await app.submit(sample, ONCE)
    await waiting.wait()
    while app.runner.free:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    second = await app.submit(sample, ONCE)
    for _ in range(20):
        await asyncio.sleep(0.02)
    assert (await app.jobs.get(ME, second)).phase is Phase.QUEUED
    full = False
    assert [(await app.ended(job_id)).phase for job_id in (first, second)] == [Phase.COMPLETED] * 2


async def test_claims_go_on_as_soon_as_there_is_free_space(app: App, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, measured = True, asyncio.Event()

    def require_space(_: int = 0) -> None:
        if low:
            measured.set()
            raise StorageFull("full")

    monkeypatch.setattr("serve_app.runner.runner.IDLE_S", 0.05)
    monkeypatch.setattr(app.artifacts, "require_space", require_space)
    await measured.wait()
    job_id = await app.submit(sample, ONCE)
    assert app.runner.free == 0
    low = False
    async with asyncio.timeout(FULL_S / 2):
        await completed_once(app, job_id)


async def test_a_runner_stops_although_redis_is_away(app: App, sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committing = asyncio.Event()

    async def failing(*_: Any, **__: Any) -> Any:
        committing.set()
        raise StoreUnavailable("gone")

    for method in ("commit", "give_back", "finish"):
        monkeypatch.setattr(app.store.leases, method, failing)
    await app.submit(sample, ONCE)
    await committing.wait()
    async with asyncio.timeout(10):
        await app.runner.stop()


async def test_a_job_that_used_its_share_is_given_back_at_no_cost_and_goes_on(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    plain = app.store.leases.commit

    async def yielding(*arguments: Any) -> CommitOutcome:
        outcome = await plain(*arguments)
        return CommitOutcome.YIELD if outcome is CommitOutcome.COMMITTED else outcome

    monkeypatch.setattr(app.store.leases, "commit", yielding)
    job = await app.ended(job_id := await app.submit(sample, ONCE))
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
    phases = [event.data for event in await app.follow(job_id) if event.kind is EventKind.PHASE]
    assert (
        sum("queued" in phase for phase in phases) == job.checkpoint.next_window
    )  # at the submit, and before each but the last
