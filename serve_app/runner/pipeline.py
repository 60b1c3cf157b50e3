"""class Pipeline: transcode a job, decode its windows meanwhile, commit them in order."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from batching.stitch import stitch
from batching.types import SAMPLE_RATE, Segment, Window
from batching.windows import WindowLimits
from deployments.errors import PoisonPill, StageDied, StageLost
from deployments.messages import (
    DecodeOptions,
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)
from serve_app.models.event import Progress, dump_segment
from serve_app.models.job import Job, Phase
from serve_app.models.lease import Claim, Commit, CommitOutcome
from serve_app.models.storage_paths import pcm_prefix
from serve_app.runner.channel_state import ChannelStates, DecodeTask, decode_with_language_retry
from serve_app.store.redis_store import Store

MAX_DEATHS = 3  # workers that die decoding one window, before its job fails
MAX_LOST = 8  # workers lost with one window for any reason, before its job is given back


class Stages(Protocol):
    """The deployments as a job uses them. Each method raises WorkError; StageLost if the stage dies."""

    async def fetch(self, request: FetchRequest) -> StoredSource: ...

    def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]: ...

    async def transcribe(self, model: str, request: TranscribeRequest) -> WindowResult: ...


class LeaseLost(Exception):
    """Another worker may hold the job: nothing more is written."""


class CancelRequested(Exception):
    """A cancel was requested: nothing more is committed."""


class Pipeline:
    """A claimed job, from its stored source to the last commit."""

    def __init__(self, store: Store, stages: Stages, claim: Claim, job: Job, *, max_audio_s: float, in_flight: int) -> None:
        self._store = store
        self._stages = stages
        self._claim = claim
        self._job = job
        self._max_audio_s = max_audio_s
        self._slots = asyncio.Semaphore(in_flight)
        self._queue: asyncio.Queue[tuple[Window, asyncio.Task[WindowResult]] | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[WindowResult]] = set()
        self._next_window = job.checkpoint.next_window
        self._segments = job.checkpoint.segments
        self._channels = ChannelStates(job, in_flight)
        self._done_s = job.audio_done_s
        self._declared_s: float | None = None
        self._total_s: float | None = None
        self._began: tuple[float, float] | None = None  # loop time, and seconds done by then

    async def run(self) -> float:
        """Run to the end. Returns the decoded seconds."""
        await self._channels.restore(self._store)
        dispatching = asyncio.create_task(self._dispatch_windows())
        try:
            while (entry := await self._queue.get()) is not None:
                window, task = entry
                await self._commit(window, await task)
                self._slots.release()
            await dispatching
        finally:
            dispatching.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(dispatching, *self._tasks, return_exceptions=True)
        assert self._total_s is not None
        return self._total_s

    async def _dispatch_windows(self) -> None:
        """Dispatch windows as they close, with back-pressure."""
        try:
            async with aclosing(self._stages.windows(self._transcode_request())) as messages:
                async for progress in messages:
                    await self._record_audio(progress)
                    for window in progress.windows:
                        if window.index >= self._next_window:
                            await self._dispatch(window)
            await self._enter(Phase.TRANSCRIBING)
        finally:
            self._queue.put_nowait(None)

    async def _record_audio(self, progress: TranscodeProgress) -> None:
        if self._declared_s is None and progress.declared_s is not None:
            self._declared_s = progress.declared_s
            await self._note_audio(declared_s=progress.declared_s)
        if progress.finished:
            self._total_s = progress.decoded_s
            await self._note_audio(total_s=progress.decoded_s, channels=progress.channels)

    async def _dispatch(self, window: Window) -> None:
        if self._began is None:
            self._began = asyncio.get_running_loop().time(), self._job.audio_done_s
            await self._enter(Phase.TRANSCRIBING)
        await self._slots.acquire()
        channel = self._channels.of(window.channel)
        task = asyncio.create_task(self._decode(window, channel.vote.likely(window.index), tuple(channel.undetermined)))
        channel.dispatched(task)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._queue.put_nowait((window, task))

    async def _decode(self, window: Window, likely: str | None, earlier: Sequence[DecodeTask]) -> WindowResult:
        return await decode_with_language_retry(lambda language: self._transcribe(window, language), likely, earlier)

    async def _transcribe(self, window: Window, likely: str | None) -> WindowResult:
        spec = self._job.spec
        options = DecodeOptions(
            language=spec.language,
            likely_language=likely,
            task=spec.task,
            prompt=spec.prompt,
            hotwords=spec.hotwords,
            temperature=spec.temperature,
            # `stitch` needs words to merge windows that overlap.
            word_timestamps=spec.word_timestamps or window.joined or window.cut is not None,
        )
        request = TranscribeRequest(
            self._job.id, self._job.tenant, spec.priority.urgency, pcm_prefix(self._job.id), window, options
        )
        return await self._transcribe_with_retries(self._job.model, request)

    async def _transcribe_with_retries(self, model: str, request: TranscribeRequest) -> WindowResult:
        """Retry when a worker dies, alone in a batch if the window may be the cause. Raises PoisonPill after MAX_DEATHS."""
        lost = died = 0
        while True:
            try:
                return await self._stages.transcribe(model, request)
            except StageLost as error:
                lost += 1
                died += isinstance(error, StageDied)
                if died == MAX_DEATHS:
                    raise PoisonPill(
                        "A part of the audio crashed every worker that decoded it: the job was given up."
                    ) from error
                if lost == MAX_LOST:
                    raise
            request = replace(request, exclusive=died > 0 or lost > 1)
            await asyncio.sleep(random.uniform(0.5, 1.0) * 2 ** min(lost, 4))

    async def _commit(self, window: Window, result: WindowResult) -> None:
        channel = self._channels.of(window.channel)
        channel.decoded(result)
        segments = stitch(
            result.segments,
            next_id=self._segments,
            end_s=channel.end_s,
            min_confidence=self._job.spec.min_confidence,
            window=window,
        )
        segments = [self._annotated(segment, window, result, len(segments)) for segment in segments]
        if result.segments and result.language:
            channel.vote.count(window.index, result.language, window.speech_s * result.language_probability)
        channel.end_s = segments[-1].end if segments else channel.end_s
        # The next window may be of another channel and end before this one.
        self._done_s = max(self._done_s, window.end * 1000 // SAMPLE_RATE / 1000)
        commit = Commit(
            window=window.index,
            segments=tuple(dump_segment(segment) for segment in segments),
            end_s=self._channels.end_s,
            language=result.language if result.segments and not self._job.checkpoint.language else None,
            device=result.device,
            progress=self._progress(window),
            decodes=result.decodes,
            fill=result.fill,
        )
        outcome = await self._store.leases.commit(self._claim, commit)
        if outcome is CommitOutcome.LOST:
            raise LeaseLost
        if outcome is CommitOutcome.CANCELLING:
            raise CancelRequested
        self._segments += len(segments)

    def _annotated(self, segment: Segment, window: Window, result: WindowResult, count: int) -> Segment:
        """Add the facts of the window, which has `count` segments."""
        return replace(
            segment,
            channel=window.channel,
            words=segment.words if self._job.spec.word_timestamps else None,
            seek=round(window.start / SAMPLE_RATE, 3),
            language_probability=round(result.language_probability, 4),
            decode_s=round(result.decode_s / count, 3),
        )

    def _progress(self, window: Window) -> Progress:
        eta_s = None
        if self._began and self._total_s is not None:
            began, done_before_s = self._began
            pace = (self._done_s - done_before_s) / max(asyncio.get_running_loop().time() - began, 1e-3)
            eta_s = round(max(self._total_s - self._done_s, 0.0) / pace, 1) if pace > 0 else None
        return Progress(self._done_s, self._total_s, window.index + 1, None, eta_s)

    def _transcode_request(self) -> TranscodeRequest:
        return TranscodeRequest(
            source_key=self._job.source,
            pcm_prefix=pcm_prefix(self._job.id),
            longest_s=self._job.spec.segment_duration or WindowLimits().longest_s,
            max_audio_s=self._max_audio_s,
            channels=self._job.spec.channels,
            listening_key=self._job.listening if self._job.spec.listening else None,
        )

    async def _enter(self, phase: Phase) -> None:
        if not await self._store.leases.enter(self._claim, phase):
            raise LeaseLost

    async def _note_audio(
        self, *, declared_s: float | None = None, total_s: float | None = None, channels: int | None = None
    ) -> None:
        if not await self._store.leases.note_audio(self._claim, declared_s=declared_s, total_s=total_s, channels=channels):
            raise LeaseLost
