"""Windows on which the model or its workers fail."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE
from deployments.errors import EngineFailed, PoisonPill, StageDied
from deployments.messages import TranscribeRequest
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from tests.lib.app import ME, App

ONCE = JobSpec("fake", segment_duration=6.0, max_attempts=1)


async def test_a_window_that_fails_once_is_decoded_again_and_no_other(app: App, sample: Path) -> None:
    failures = iter([EngineFailed("No."), EngineFailed("No.")])
    app.stages.trouble = lambda request: next(failures, None) if request.window.index == 3 else None
    job = await app.ended(await app.submit(sample, ONCE))
    assert (job.phase, job.attempts, job.warnings) == (Phase.COMPLETED, 1, ())
    assert sorted(app.stages.decoded) == list(range(job.checkpoint.next_window))


@pytest.mark.parametrize("error", [EngineFailed("No."), StageDied("gone"), PoisonPill("It kills.")])
async def test_a_window_that_always_fails_becomes_a_gap_with_a_warning(app: App, sample: Path, error: Exception) -> None:
    requests: dict[int, TranscribeRequest] = {}

    def trouble(request: TranscribeRequest) -> Exception | None:
        requests[request.window.index] = request
        return error if request.window.index == 3 else None

    app.stages.trouble = trouble
    job = await app.ended(job_id := await app.submit(sample, ONCE))
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
    window = requests[3].window
    (warning,) = job.warnings
    assert warning.code == "window_failed"
    assert (warning.start, warning.end) == (round(window.start / SAMPLE_RATE, 3), round(window.end / SAMPLE_RATE, 3))
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert [s.id for s in segments] == list(range(len(segments)))
    assert {s.seek for s in segments} == {
        round(r.window.start / SAMPLE_RATE, 3) for index, r in requests.items() if index != 3
    }


async def test_a_fallback_model_decodes_a_window_that_the_first_model_fails_on(app: App, sample: Path) -> None:
    app.stages.trouble = lambda r: EngineFailed("No.") if r.window.index == 3 and app.stages.used[-1] == "fake" else None
    job = await app.ended(await app.submit(sample, replace(ONCE, fallbacks=("second",))))
    assert (job.phase, job.model, job.warnings) == (Phase.COMPLETED, "second", ())


async def test_a_model_that_fails_on_most_windows_fails_the_job(app: App, sample: Path) -> None:
    app.stages.trouble = lambda request: EngineFailed("No.") if request.window.index in (2, 3, 4) else None
    job = await app.ended(await app.submit(sample, ONCE))
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "engine_failed")


async def test_a_job_that_resumes_at_a_bad_window_goes_on_after_it(app: App, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(3)
    app.stages.trouble = lambda request: EngineFailed("No.") if request.window.index == 3 else None
    job_id = await app.submit(sample, ONCE)
    await app.until(job_id, EventKind.SEGMENT, 3)
    await app.runner.stop()
    app.stages.gate = asyncio.Semaphore(1000)
    await app.runner.start()
    job = await app.ended(job_id)
    assert (job.phase, job.attempts, len(job.warnings)) == (Phase.COMPLETED, 1, 1)
