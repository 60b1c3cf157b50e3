"""Jobs that go on after a break: by their place in the audio, not by the number of a window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE, Span, Window
from deployments.messages import TranscodeProgress, TranscodeRequest, TranscribeRequest, WindowResult
from serve_app.models.event import EventKind
from serve_app.models.job import ChannelCheckpoint, Checkpoint, Job, JobSpec, Phase
from serve_app.runner.channel_state import ChannelStates
from tests.lib.app import ME, App

S = SAMPLE_RATE


@pytest.fixture
async def job(app: App) -> Job:
    """A job at second 20, whose language is mostly English."""
    await app.runner.stop()
    job = await app.jobs.get(ME, await app.submit_without_upload(JobSpec("fake")))
    state = ChannelCheckpoint(20 * S, 19.5, {"en": 18.0, "fr": 2.0})
    return replace(job, checkpoint=Checkpoint(2, 5, 19.5, "en", {None: state}))


def window(start: float, end: float, *, joined: bool = False, pad: float = 1.0) -> Window:
    """A window around speech from `start` to `end`."""
    speech = Span(int(start * S), int(end * S))
    return Window(7, speech.start - int(pad * S), speech.end + int(pad * S), (speech,), joined)


@pytest.mark.parametrize(
    ("planned", "rest"),
    [
        (window(5, 19), None),
        (window(5, 20), None),
        (window(5, 20.5), None),  # less than is worth a window
        (window(21.5, 30), window(21.5, 30)),
        (window(20.5, 30), replace(window(20.5, 30), start=20 * S)),
        (window(20, 30, joined=True, pad=0.5), window(20, 30, joined=True, pad=0.5)),  # overlaps the window before
        (window(10, 30), replace(window(20, 30), start=20 * S)),
        (window(10, 30, joined=True), replace(window(20, 30), start=20 * S)),
    ],
)
async def test_a_window_is_cut_at_the_place_that_is_committed(job: Job, planned: Window, rest: Window | None) -> None:
    assert ChannelStates(job, 8).of(None).rest_of(planned) == rest


async def test_the_language_of_a_resumed_job_is_that_of_most_of_its_speech(job: Job) -> None:
    states = ChannelStates(job, 8)
    assert (states.language, states.of(None).vote.likely(2), states.of(None).end_s) == ("en", "en", 19.5)


async def test_a_foreign_quotation_before_a_break_is_not_the_language_of_the_job(app: App, sample: Path) -> None:
    plain = app.stages.transcribe

    async def transcribe(model: str, request: TranscribeRequest, on_start: object = None) -> WindowResult:
        result = await plain(model, request)
        return replace(result, language="fr" if request.window.index == 3 else "de", language_probability=0.9)

    app.stages.transcribe = transcribe  # type: ignore[method-assign]
    app.stages.gate = asyncio.Semaphore(4)
    job_id = await app.submit(sample, JobSpec("fake", segment_duration=6.0))
    await app.until(job_id, EventKind.SEGMENT, 4)
    await app.runner.stop()
    job = await app.jobs.get(ME, job_id)
    assert job.language == "de"
    assert set(job.checkpoint.channels[None].votes) == {"de", "fr"}


@pytest.mark.parametrize("longest_s", [8.0, 11.0, 24.0])
async def test_a_job_that_is_planned_anew_decodes_all_speech_once(app: App, sample: Path, longest_s: float) -> None:
    """The first Runner's windows are of six seconds; an update plans longer ones."""
    requests: list[Window] = []
    app.stages.gate = asyncio.Semaphore(3)
    job_id = await app.submit(sample, JobSpec("fake", segment_duration=6.0))
    await app.until(job_id, EventKind.SEGMENT, 3)
    await app.runner.stop()
    job = await app.jobs.get(ME, job_id)
    until = job.checkpoint.channels[None].until
    app.artifacts.delete(f"jobs/{job_id}/pcm/plan.json")

    plain = app.stages.windows

    async def windows(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        async for progress in plain(replace(request, longest_s=longest_s)):
            yield progress

    app.stages.windows = windows  # type: ignore[method-assign]
    app.stages.gate = asyncio.Semaphore(1000)
    app.stages.trouble = lambda request: requests.append(request.window)
    await app.runner.start()
    assert (await app.ended(job_id)).phase is Phase.COMPLETED
    assert min(window.start for window in requests) >= until
    last = until
    for window in sorted(requests, key=lambda window: window.start):
        assert window.speech[0].start >= last
        last = window.speech[-1].end
    segments = (await app.jobs.transcript(ME, job_id)).segments
    assert [segment.id for segment in segments] == list(range(len(segments)))
