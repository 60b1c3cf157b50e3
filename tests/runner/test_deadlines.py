"""Workers that hang: their calls end, and the work goes elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from batching.types import Span, Window
from deployments.errors import StageDied, StageLost
from deployments.messages import (
    DecodeOptions,
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)
from deployments.storage.artifacts import Artifacts
from serve_app.models.job import JobSpec, Phase
from serve_app.runner.deadlines import DeadlineRules, TimedStages
from serve_app.runner.stages import ignore_start
from serve_app.store.redis_store import Store
from tests.lib.app import open_app

SHORT = DeadlineRules(decode_s=0.5, first_decode_s=0.5, queue_s=0.5, progress_s=0.5, fetch_s=0.5)
ONCE = JobSpec("fake", segment_duration=6.0, max_attempts=1)


class Hanging:
    """Stages that hang until their gate opens."""

    def __init__(self) -> None:
        self.starts, self.cancelled = True, 0
        self.gate = asyncio.Event()

    async def fetch(self, request: FetchRequest) -> StoredSource:
        await self.gate.wait()
        return StoredSource(request.key, 1)

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        yield TranscodeProgress((), 1.0, finished=False)
        await self.gate.wait()
        yield TranscodeProgress((), 2.0, finished=True)

    async def transcribe(
        self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
    ) -> WindowResult:
        try:
            if self.starts:
                on_start()
            await self.gate.wait()
            on_start()
            return WindowResult(request.window.index, (), None, "cpu")
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


def window(index: int) -> TranscribeRequest:
    return TranscribeRequest("j", "t", 0, "p", Window(index, 0, 16_000, (Span(0, 16_000),)), DecodeOptions())


async def test_a_decode_that_hangs_ends_as_a_death() -> None:
    stages = Hanging()
    with pytest.raises(StageDied):
        await TimedStages(stages, SHORT).transcribe("m", window(0))
    assert stages.cancelled == 1


async def test_a_window_whose_turn_never_comes_is_lost_and_blames_nobody() -> None:
    stages = Hanging()
    stages.starts = False
    with pytest.raises(StageLost) as lost:
        await TimedStages(stages, SHORT).transcribe("m", window(0))
    assert not isinstance(lost.value, StageDied)


async def test_a_window_that_waits_behind_others_is_not_lost() -> None:
    """A long queue that moves: each decode takes most of what a queue may stand still."""

    class Busy(Hanging):
        turn = asyncio.Lock()

        async def transcribe(
            self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
        ) -> WindowResult:
            async with self.turn:
                on_start()
                await asyncio.sleep(0.2)
            return WindowResult(request.window.index, (), None, "cpu")

    timed = TimedStages(Busy(), SHORT)
    results = await asyncio.gather(*(timed.transcribe("m", window(index)) for index in range(8)))
    assert [result.index for result in results] == list(range(8))


async def test_a_slow_model_gets_time_by_its_measured_pace() -> None:
    class Slow(Hanging):
        delay_s = 0.3

        async def transcribe(
            self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
        ) -> WindowResult:
            on_start()
            await asyncio.sleep(self.delay_s)
            return WindowResult(request.window.index, (), None, "cpu")

    stages = Slow()
    timed = TimedStages(stages, SHORT)
    await timed.transcribe("m", window(0))
    stages.delay_s = 1.0  # longer than `decode_s`, not than 20 times what was measured
    assert (await timed.transcribe("m", window(1))).index == 1


async def test_a_download_and_a_transcoder_that_hang_are_lost() -> None:
    timed = TimedStages(Hanging(), SHORT)
    with pytest.raises(StageLost):
        await timed.fetch(FetchRequest("http://a/b", "k", 1))
    messages = timed.windows(TranscodeRequest("s", "p", 24.0, 60.0))
    assert (await anext(messages)).decoded_s == 1.0
    with pytest.raises(StageLost):
        await anext(messages)


async def test_the_windows_of_a_worker_that_hangs_are_decoded_elsewhere(
    store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    async with open_app(store, artifacts, ffmpeg, deadlines=replace(SHORT, queue_s=30, progress_s=30)) as app:
        plain, hung = app.stages.transcribe, set[int]()

        async def transcribe(
            model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
        ) -> WindowResult:
            if request.window.index in (1, 2) and request.window.index not in hung:
                hung.add(request.window.index)
                on_start()
                await asyncio.Event().wait()
            return await plain(model, request, on_start)

        app.stages.transcribe = transcribe  # type: ignore[method-assign]
        job = await app.ended(await app.submit(sample, ONCE))
        assert (job.phase, job.attempts, job.warnings, hung) == (Phase.COMPLETED, 1, (), {1, 2})


async def test_a_window_that_hangs_every_worker_becomes_a_gap(
    store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    async with open_app(store, artifacts, ffmpeg, deadlines=replace(SHORT, queue_s=30, progress_s=30)) as app:
        plain = app.stages.transcribe

        async def transcribe(
            model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
        ) -> WindowResult:
            if request.window.index == 2:
                on_start()
                await asyncio.Event().wait()
            return await plain(model, request, on_start)

        app.stages.transcribe = transcribe  # type: ignore[method-assign]
        job = await app.ended(await app.submit(sample, ONCE))
        assert (job.phase, job.attempts, [w.code for w in job.warnings]) == (Phase.COMPLETED, 1, ["window_failed"])


async def test_a_transcoder_that_hangs_is_given_up_and_the_job_goes_on(
    store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    async with open_app(store, artifacts, ffmpeg, deadlines=replace(SHORT, queue_s=30, decode_s=30)) as app:
        plain, hangs = app.stages.windows, iter([True])

        async def windows(request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
            async for progress in plain(request):
                yield progress
                if next(hangs, False):
                    await asyncio.Event().wait()

        app.stages.windows = windows  # type: ignore[method-assign]
        job = await app.ended(await app.submit(sample, ONCE))
        assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
