"""Transcriber stage: windows → segments, with one loaded model and its batcher."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batching.batcher import Batcher, Hook
from batching.quality import Strategy, Verdict, judge, strategies
from batching.scheduler import Scheduler
from batching.types import SAMPLE_RATE, Segment, Window
from batching.windows import remainder
from deployments.errors import EngineFailed, StageLost, WorkError
from deployments.health import Clock, Pace, Watch
from deployments.messages import DecodeStarted, EngineInfo, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import channel_prefix, read_pcm
from deployments.transcription.engines.base import Clip, Decode, Engine, shift_times
from deployments.transcription.engines.batch_memory import is_out_of_memory

log = logging.getLogger(__name__)

LINGER_S, LINGER_GPU_S = 0.02, 0.002  # wait of an idle model for more windows: 2 % of a decode
DELIVERY_S = 0.05  # enough for a message to reach the caller
MEMORY_WAITS_S = (0.5, 2.0, 8.0, 30.0)  # before a clip that found no memory is tried again; other batches end meanwhile


class BatchShare(NamedTuple):
    """A clip's share of a batch."""

    fill: float  # share of the batch's slots taken by all its clips, 0 to 1
    seconds: float  # the clip's share of the decode time


class Transcriber:
    """Decodes windows of any job, batched with those of others."""

    def __init__(
        self,
        artifacts: Artifacts,
        engine: Engine,
        weights: Mapping[str, float] = MappingProxyType({}),  # of tenants
        clock: Clock = time.monotonic,
    ) -> None:
        self._artifacts = artifacts
        self._engine = engine
        # On a GPU one extra thread prepares the features of the next batch while the others decode.
        prefetch = int(engine.info.device == "cuda")
        self._threads = ThreadPoolExecutor(engine.workers + prefetch, "engine")
        linger = partial(asyncio.sleep, LINGER_GPU_S if prefetch else LINGER_S)
        self._scheduler = Scheduler(engine.batch, engine.batch_s, weights, mixed=bool(prefetch))
        self._batcher: Batcher[Clip, tuple[Decode, BatchShare]] = Batcher(
            self._decode_batch, self._scheduler, engine.workers, prefetch, linger
        )
        self._windows = 0  # in hand
        self._watch, self._pace = Watch(clock), Pace()

    async def info(self) -> EngineInfo:
        """Model and device."""
        return self._engine.info

    async def stats(self) -> dict[str, int]:
        """Counters of the batcher."""
        return asdict(self._batcher.stats)

    async def check_health(self) -> None:
        """Raise Stalled once a batch takes far longer than usual."""
        # A wedged GPU or thread never answers.
        self._watch.check()

    @property
    def load(self) -> float:
        # Windows in hand, as a share of what keeps the engine busy: one batch that runs and one that waits.
        return self._windows / (2 * self._engine.workers * self._engine.batch)

    async def stream(self, request: TranscribeRequest) -> AsyncIterator[DecodeStarted | WindowResult]:
        """`transcribe` with a DecodeStarted before the result, so that a death is blamed on a window that was decoding."""
        started = asyncio.Event()

        async def on_start() -> None:
            started.set()
            if request.exclusive:
                await asyncio.sleep(DELIVERY_S)  # the message must be out before this window can kill the process

        work = asyncio.create_task(self.transcribe(request, on_start))
        waiting = asyncio.create_task(started.wait())
        try:
            await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
            if started.is_set():
                yield DecodeStarted()
            yield await work
        finally:
            work.cancel()
            waiting.cancel()

    async def transcribe(self, request: TranscribeRequest, on_start: Hook | None = None) -> WindowResult:
        """Decode a window to its end; `on_start` is awaited before each decode. Raises EngineFailed, StageLost."""
        self._windows += 1
        try:
            return await self._transcribe(request, on_start)
        finally:
            self._windows -= 1

    async def _transcribe(self, request: TranscribeRequest, on_start: Hook | None) -> WindowResult:
        window: Window | None = request.window
        segments: list[Segment] = []
        shares: list[BatchShare] = []
        language, probability = None, 0.0
        while window is not None:
            prefix = channel_prefix(request.pcm_prefix, window.channel)
            audio = await self._artifacts.threads.run(read_pcm, self._artifacts, prefix, window.start, window.end)
            decode, verdict = await self._decode(request, audio, window, on_start, shares)
            if language is None:
                language, probability = decode.language, decode.language_probability
            if not verdict.silent:
                offset = window.start / SAMPLE_RATE
                segments += [replace(shift_times(s, offset), flags=verdict.flags) for s in decode.segments]
            window = self._remainder(window, decode)
        return WindowResult(
            index=request.window.index,
            segments=tuple(segments),
            language=language,
            device=self._engine.info.device,
            language_probability=probability,
            decodes=len(shares),
            fill=max(share.fill for share in shares),
            decode_s=round(sum(share.seconds for share in shares), 3),
        )

    @staticmethod
    def _remainder(window: Window, decode: Decode) -> Window | None:
        if decode.ends_at is None or decode.ends_at < 1.0:  # the end of the window, or no progress
            return None
        return remainder(window, window.start + _samples(decode.ends_at))

    async def _decode(
        self,
        request: TranscribeRequest,
        audio: NDArray[np.float32],
        window: Window,
        on_start: Hook | None,
        shares: list[BatchShare],
    ) -> tuple[Decode, Verdict]:
        """Decode with fallbacks while the result is doubtful; the best one counts."""
        best: tuple[Decode, Verdict] | None = None
        for strategy in strategies(request.options.temperature):
            if best and best[0].full_context and strategy == Strategy(request.options.temperature, full_context=True):
                continue  # the first decode had the full context already
            decode, share = await self._submit(request, Clip(audio, request.options, strategy), on_start)
            shares.append(share)
            verdict = judge(
                decode.text,
                log_probability=decode.log_probability,
                no_speech=decode.no_speech,
                tokens=decode.tokens,
                seconds=len(audio) / SAMPLE_RATE,
                detected_s=request.window.speech_s,
                speech_s=window.speech_before(window.start + _samples(decode.ends_at or window.seconds)),
                capped=decode.capped,
            )
            if best is None or _rank(decode, verdict) > _rank(*best):
                best = decode, verdict
            if not verdict.doubtful or (decode.full_context and verdict.only_sparse):
                break
        assert best is not None
        return best

    async def _submit(self, request: TranscribeRequest, clip: Clip, on_start: Hook | None) -> tuple[Decode, BatchShare]:
        try:
            return await self._batcher.submit(
                clip,
                job=request.job,
                tenant=request.tenant,
                cost=len(clip.audio) / SAMPLE_RATE,
                urgency=request.urgency,
                kind=self._engine.kind(clip),
                exclusive=request.exclusive,
                on_start=on_start,
            )
        except WorkError:
            raise
        except Exception as error:
            raise EngineFailed(f"The model could not decode a part of the audio ({type(error).__name__}).") from error

    async def _decode_batch(self, clips: Sequence[Clip]) -> Sequence[tuple[Decode, BatchShare]]:
        waits = iter(MEMORY_WAITS_S)
        while True:
            try:
                return await self._decode_in_thread(clips)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(clips) > 1:
                    self._shrink(len(clips) // 2)
                    raise  # the batcher runs its halves
                if (wait_s := next(waits, None)) is None:
                    message = "The device has no memory left for a part of the audio: another worker tries it."
                    raise StageLost(message) from error
                log.warning("no memory to decode a clip, trying again in %g s: %s", wait_s, error)
            await asyncio.sleep(wait_s)

    async def _decode_in_thread(self, clips: Sequence[Clip]) -> Sequence[tuple[Decode, BatchShare]]:
        audio_s = sum(len(clip.audio) for clip in clips) / SAMPLE_RATE
        began = time.monotonic()
        with self._watch.within(self._pace.limit_s(audio_s), f"a batch of {len(clips)} clips"):
            decodes = await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.decode, clips)
        seconds = time.monotonic() - began
        self._pace.measured(audio_s, seconds)
        share = BatchShare(min(len(clips) / self._engine.batch, 1.0), seconds / len(clips))
        return [(decode, share) for decode in decodes]

    def _shrink(self, batch: int) -> None:
        if batch < self._engine.batch:
            log.warning("out of memory, batches are limited to %d clips from now on, before %d", batch, self._engine.batch)
            self._engine.batch_s *= batch / self._engine.batch
            self._engine.batch = batch
            self._scheduler.shrink(batch, self._engine.batch_s)


def _samples(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE)


def _rank(decode: Decode, verdict: Verdict) -> tuple[bool, bool, float]:
    return not verdict.doubtful, not {"repetitive", "cut_off"} & set(verdict.flags), decode.log_probability
