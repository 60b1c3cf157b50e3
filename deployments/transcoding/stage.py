"""Transcoder stage: stored source → PCM parts, windows as they close, and an MP3 copy."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from batching.types import SAMPLE_RATE, Window
from batching.windows import WindowLimits
from deployments.cores import usable_cores
from deployments.errors import AudioTooLong
from deployments.health import Clock, Watch
from deployments.messages import MediaWarning, TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.fair_turns import FairTurns
from deployments.transcoding.ffmpeg import encodes_mp3
from deployments.transcoding.mp3_copy import Mp3Copy
from deployments.transcoding.plan import StoredPlan
from deployments.transcoding.run_ahead import RunAhead
from deployments.transcoding.window_stream import WindowStream

log = logging.getLogger(__name__)

CHUNK_SAMPLES = 5 * SAMPLE_RATE
STALLED_S = 900.0  # between two messages: enough to copy a large source from an object store
LEAST_TURNS = 2  # so that a source that stalls stops no other
TURN_S = 5.0  # a source that has no chunk for so long stalls: it waits for it outside of its turn
UNUSED_SHARE = 0.5  # of the run-ahead: while more of an earlier plan is left, its source is not decoded on

T = TypeVar("T")


class Transcoder:
    """Decodes sources with the ffmpeg at `program`."""

    def __init__(self, artifacts: Artifacts, program: str, version: str = "", clock: Clock = time.monotonic) -> None:
        self._artifacts = artifacts
        self._program = program
        self._version = version
        self._watch = Watch(clock)
        self._turns = FairTurns(max(usable_cores(), LEAST_TURNS))

    async def check_health(self) -> None:
        """Raise Stalled if a decode makes no progress."""
        self._watch.check()

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        """Yield windows as soon as their audio is stored. Raises UnsupportedMedia, CorruptMedia, NoAudio, AudioTooLong,
        StageLost."""
        with self._watch.within(STALLED_S, "a decode") as deadline:
            async with aclosing(self._windows(request)) as messages:
                async for progress in messages:
                    with deadline.suspended():  # the caller takes its time
                        yield progress

    async def _windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        plan = StoredPlan(self._artifacts, request.pcm_prefix, self._version)
        # A source that was decoded to its end before is not decoded again.
        if whole := await self._artifacts.threads.run(plan.load):
            yield whole
            return
        ahead = RunAhead(self._artifacts, request)
        if plan.windows and plan.audio_stored:
            paused = TranscodeProgress((), 0.0, False, plan.channels)
            yield replace(paused, windows=tuple(plan.windows))
            # The source is decoded from its beginning again: not for a job that makes room for others before it needs that.
            while not await ahead.room(plan.windows[-1].end / SAMPLE_RATE, UNUSED_SHARE):
                yield paused
        async with aclosing(self._decode(request, plan, ahead)) as messages:
            async for progress in messages:
                yield progress

    async def _decode(
        self, request: TranscodeRequest, plan: StoredPlan, ahead: RunAhead
    ) -> AsyncGenerator[TranscodeProgress, None]:
        threads = self._artifacts.threads
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(threads.entered(self._artifacts.descriptor(request.source_key)))
            copy = await self._mp3_copy(request)
            if copy:
                await stack.enter_async_context(copy)
            mp3 = copy.descriptor if copy else None
            decoder = await Decoder.start(self._program, source, request.max_audio_s + 1, separate=request.channels, mp3=mp3)
            stack.push_async_callback(decoder.stop)
            if copy:
                copy.start()
            await decoder.read_header()
            limits = replace(WindowLimits(), longest_s=request.longest_s)
            held = () if plan.audio_stored else plan.windows
            stream = await threads.run(
                WindowStream, self._artifacts, request.pcm_prefix, limits, decoder.channels, plan.windows, held
            )
            warnings: list[MediaWarning] = []
            while True:
                while not await ahead.room(decoder.samples / SAMPLE_RATE):
                    if copy:
                        await threads.run(copy.touch)
                    yield TranscodeProgress((), decoder.samples / SAMPLE_RATE, False, decoder.channels, decoder.declared_s)
                if (windows := await self._next(decoder, stream, request)) is None:
                    break
                progress = _progress(windows, decoder)
                warnings += progress.warnings
                if progress.windows:
                    await threads.run(plan.append, progress.windows, progress.channels)
                yield progress
            await decoder.check_exit()
            if copy:
                await copy.commit()
        last = await threads.run(stream.finish)
        progress = _progress(last, decoder, finished=True)
        await threads.run(plan.finish, progress, decoder.samples, [*warnings, *progress.warnings])
        yield progress

    async def _next(self, decoder: Decoder, stream: WindowStream, request: TranscodeRequest) -> list[Window] | None:
        """Decode a chunk, store it and detect speech in it, in the tenant's turn; None at the end."""
        async with AsyncExitStack() as stack:
            async with self._turns.turn(request.tenant):
                reading = await stack.enter_async_context(_task(decoder.read(CHUNK_SAMPLES)))
                await asyncio.wait([reading], timeout=TURN_S)
                if reading.done():
                    return await self._feed(reading.result(), decoder, stream, request.max_audio_s)
            await asyncio.wait([reading])
            async with self._turns.turn(request.tenant):
                return await self._feed(reading.result(), decoder, stream, request.max_audio_s)

    async def _feed(self, pcm: bytes, decoder: Decoder, stream: WindowStream, max_audio_s: float) -> list[Window] | None:
        if decoder.samples > int(max_audio_s * SAMPLE_RATE):
            raise AudioTooLong(f"The audio is longer than the {max_audio_s:g} s allowed: split it.")
        return await self._artifacts.threads.run(stream.feed, pcm) if pcm else None

    async def _mp3_copy(self, request: TranscodeRequest) -> Mp3Copy | None:
        if request.listening_key is None:
            return None
        if not await asyncio.to_thread(encodes_mp3, self._program):
            log.warning("no MP3 copy %s: this ffmpeg has no MP3 encoder", request.listening_key)
            return None
        return Mp3Copy(self._artifacts, request.listening_key)


@asynccontextmanager
async def _task(work: Coroutine[Any, Any, T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run `work` beside the body; it ends with it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


def _progress(windows: list[Window], decoder: Decoder, finished: bool = False) -> TranscodeProgress:
    seconds = decoder.samples / SAMPLE_RATE
    warnings = decoder.new_warnings()
    return TranscodeProgress(tuple(windows), seconds, finished, decoder.channels, decoder.declared_s, warnings)
