"""Transcripts of jobs that end early, and of those that run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from batching.types import Transcript
from deployments.errors import StorageUnavailable
from deployments.messages import TranscribeRequest
from serve_app.errors import RequestError
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import CommitOutcome
from tests.lib.app import ME, App

ONCE = JobSpec("fake", segment_duration=6.0, max_attempts=1)


@pytest.fixture
async def whole(app: App, sample: Path) -> Transcript:
    """The transcript of the sample."""
    await app.ended(job_id := await app.submit(sample, ONCE))
    return await app.jobs.transcript(ME, job_id)


async def failed_in_the_middle(app: App, sample: Path, spec: JobSpec = ONCE) -> str:
    """A job that fails at its fifth window."""

    def trouble(request: TranscribeRequest) -> Exception | None:
        return RuntimeError("a crash") if request.window.index == 4 else None

    app.stages.trouble = trouble
    await app.ended(job_id := await app.submit(sample, spec))
    app.stages.trouble = lambda _: None
    return job_id


async def drop_stream(app: App, job_id: str) -> None:
    await app.store._redis.delete(f"murmur:{{q}}:events:{job_id}")


async def test_a_failed_job_keeps_the_transcript_up_to_its_failure(app: App, whole: Transcript, sample: Path) -> None:
    job_id = await failed_in_the_middle(app, sample)
    job = await app.jobs.get(ME, job_id)
    assert (job.phase, job.partial) == (Phase.FAILED, True)
    await drop_stream(app, job_id)
    so_far = await app.jobs.transcript_so_far(ME, job_id)
    assert (so_far.partial, so_far.final) == (True, True)
    count = job.checkpoint.segments
    assert 0 < count < len(whole.segments)
    assert so_far.transcript.segments == whole.segments[:count]
    assert so_far.transcript.duration_s == job.audio_done_s
    assert "transcript.jsonl" in {file.name for file in await app.jobs.results.files(job)}


async def test_a_reader_that_comes_late_gets_the_segments_of_a_failed_job(app: App, sample: Path) -> None:
    job_id = await failed_in_the_middle(app, sample)
    job = await app.jobs.get(ME, job_id)
    await drop_stream(app, job_id)
    kinds = [event.kind for event in await app.follow(job_id) if event.kind in (EventKind.SEGMENT, EventKind.DONE)]
    assert kinds == [EventKind.SEGMENT] * job.checkpoint.segments + [EventKind.DONE]


async def test_a_cancelled_job_keeps_its_transcript(app: App, whole: Transcript, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, ONCE)
    await app.until(job_id, EventKind.SEGMENT, 3)
    await app.jobs.cancel(ME, job_id)
    job = await app.ended(job_id)
    assert (job.phase, job.partial) == (Phase.CANCELLED, True)
    segments = (await app.jobs.transcript_so_far(ME, job_id)).transcript.segments
    assert segments == whole.segments[: len(segments)]
    assert segments


async def test_a_running_job_shows_its_text_so_far(app: App, whole: Transcript, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, ONCE)
    await app.until(job_id, EventKind.SEGMENT, 3)
    so_far = await app.jobs.transcript_so_far(ME, job_id)
    assert (so_far.partial, so_far.final) == (True, False)
    assert so_far.transcript.segments == whole.segments[: len(so_far.transcript.segments)]
    assert len(so_far.transcript.segments) >= 3


async def test_other_apis_show_no_partial_transcript(app: App, sample: Path) -> None:
    job = await app.jobs.get(ME, await failed_in_the_middle(app, sample))
    assert await app.jobs.results.transcript_or_none(job) is None
    assert app.jobs.results.audio(job) is None
    with pytest.raises(RequestError) as refused:
        await app.jobs.results.transcript(job)
    assert refused.value.code == "conflict"


async def test_a_job_without_text_has_no_transcript(app: App) -> None:
    await app.ended(job_id := await app.submit(b"not audio at all"))
    assert not (await app.jobs.get(ME, job_id)).partial
    with pytest.raises(RequestError) as refused:
        await app.jobs.transcript_so_far(ME, job_id)
    assert refused.value.code == "conflict"


async def test_a_failed_job_that_is_retried_goes_on_and_ends_whole(app: App, whole: Transcript, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, JobSpec("fake", segment_duration=6.0, max_attempts=3))
    await app.until(job_id, EventKind.SEGMENT, 3)
    await app.runner.stop()
    claim = await app.store.leases.claim("test")
    assert claim
    assert await app.store.leases.finish(claim, Phase.FAILED, partial=False)
    app.stages.gate = asyncio.Semaphore(1000)
    app.stages.decoded.clear()
    await app.jobs.retry(ME, job_id)
    await app.runner.start()
    job = await app.ended(job_id)
    assert (job.phase, job.partial) == (Phase.COMPLETED, False)
    assert await app.jobs.transcript(ME, job_id) == whole
    assert min(app.stages.decoded) >= 3


async def test_a_cancel_does_not_wait_for_a_storage_that_is_away(
    app: App, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise StorageUnavailable("gone")

    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, ONCE)
    await app.until(job_id, EventKind.SEGMENT, 3)
    monkeypatch.setattr(app.artifacts, "writer", failing)
    await app.jobs.cancel(ME, job_id)
    job = await app.ended(job_id)
    assert (job.phase, job.partial) == (Phase.CANCELLED, False)
    assert (await app.jobs.transcript_so_far(ME, job_id)).transcript.segments


async def test_segments_that_are_missing_from_the_stream_are_noticed_and_the_job_starts_over(
    app: App, whole: Transcript, sample: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, JobSpec("fake", segment_duration=6.0, max_attempts=2))
    await app.until(job_id, EventKind.SEGMENT, 3)
    await drop_stream(app, job_id)
    for _ in range(100):
        app.stages.gate.release()
    job = await app.ended(job_id)
    assert job.phase is Phase.COMPLETED
    assert await app.jobs.transcript(ME, job_id) == whole
    assert f"job_id={job_id}" in caplog.text
    assert "starting over" in caplog.text


async def test_a_job_whose_month_is_used_up_fails_with_the_text_so_far(
    app: App, whole: Transcript, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = app.store.leases.commit

    async def exhausted(claim: Any, commit: Any) -> CommitOutcome:
        outcome = await plain(claim, commit)
        return CommitOutcome.EXHAUSTED if commit.window == 2 else outcome

    monkeypatch.setattr(app.store.leases, "commit", exhausted)
    job = await app.ended(job_id := await app.submit(sample, JobSpec("fake", segment_duration=6.0)))
    assert job.error
    assert (job.phase, job.error.code, job.partial, job.attempts) == (Phase.FAILED, "quota_exceeded", True, 1)
    segments = (await app.jobs.transcript_so_far(ME, job_id)).transcript.segments
    assert segments == whole.segments[: job.checkpoint.segments]
