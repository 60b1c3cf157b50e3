"""Transcriber stage: windows → segments, with one loaded model and its batcher."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batching.batcher import Batcher, Hook
from batching.quality import Strategy, Verdict, judge, strategies
from batching.scheduler import Scheduler
from batching.types import SAMPLE_RATE, Segment, Window
from batching.windows import remainder
from deployments.errors import EngineFailed
from deployments.messages import DecodeStarted, EngineInfo, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import channel_prefix, read_pcm
from deployments.transcription.engines.base import Clip, Decode, Engine, shift_times

LINGER_S, LINGER_GPU_S = 0.02, 0.002  # wait of an idle model for more windows: 2 % of a decode
DELIVERY_S = 0.05  # enough for a message to reach the caller


class BatchShare(NamedTuple):
    """A clip's share of a batch."""

    fill: float  # share of the batch's slots taken by all its clips, 0 to 1
    seconds: float  # the clip's share of the decode time


class Transcriber:
    """Decodes windows of any job, batched with those of others."""

    def __init__(self, artifacts: Artifacts, engine: Engine) -> None:
        self._artifacts = artifacts
        self._engine = engine
        # On a GPU one extra thread prepares the features of the next batch while the others decode.
        prefetch = int(engine.info.device == "cuda")
        self._threads = ThreadPoolExecutor(engine.workers + prefetch, "engine")
        linger = partial(asyncio.sleep, LINGER_GPU_S if prefetch else LINGER_S)
        scheduler = Scheduler(engine.batch, engine.batch_s)
        self._batcher: Batcher[Clip, tuple[Decode, BatchShare]] = Batcher(
            self._decode_batch, scheduler, engine.workers, prefetch, linger
        )

    async def info(self) -> EngineInfo:
        """Model and device."""
        return self._engine.info

    async def stats(self) -> dict[str, int]:
        """Counters of the batcher."""
        return asdict(self._batcher.stats)

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
        """Decode a window to its end; `on_start` is awaited before each decode. Raises EngineFailed."""
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
        except Exception as error:
            raise EngineFailed(f"The model could not decode a part of the audio ({type(error).__name__}).") from error

    async def _decode_batch(self, clips: Sequence[Clip]) -> Sequence[tuple[Decode, BatchShare]]:
        began = time.monotonic()
        decodes = await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.decode, clips)
        share = BatchShare(len(clips) / self._engine.batch, (time.monotonic() - began) / len(clips))
        return [(decode, share) for decode in decodes]


def _samples(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE)


def _rank(decode: Decode, verdict: Verdict) -> tuple[bool, bool, float]:
    return not verdict.doubtful, not {"repetitive", "cut_off"} & set(verdict.flags), decode.log_probability
