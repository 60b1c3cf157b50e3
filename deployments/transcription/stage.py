"""Windows → segments. One replica of a model, its batcher, and the judgement of what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from batching.batcher import Batcher
from batching.quality import Try, Verdict, judge, tries
from batching.scheduler import Scheduler
from batching.types import SAMPLE_RATE, Segment, Window
from batching.windows import remainder
from deployments.errors import EngineFailed
from deployments.messages import Begun, EngineInfo, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import channel_prefix, read_pcm
from deployments.transcription.engines.base import Clip, Decode, Engine, shifted

SETTLE_S, SETTLE_GPU_S = 0.02, 0.002
"""How long a window that finds the model idle waits for those that come with it: a fiftieth of what it takes."""
HEARD_S = 0.05
"""Enough for a word to cross to the caller."""


class Run(NamedTuple):
    """A batch that a clip was decoded in: how full it was, and the clip's share of the seconds that it took."""

    fill: float
    seconds: float


class Transcriber:
    """Decodes windows of any job, as many together as the engine takes."""

    def __init__(self, artifacts: Artifacts, engine: Engine) -> None:
        self._artifacts = artifacts
        self._engine = engine
        # On a GPU one more than decode at once: its batch is read and turned into features meanwhile, and is ready.
        ahead = int(engine.info.device == "cuda")
        self._threads = ThreadPoolExecutor(engine.workers + ahead, "engine")
        settle = partial(asyncio.sleep, SETTLE_GPU_S if ahead else SETTLE_S)
        scheduler = Scheduler(engine.batch, engine.batch_s)
        self._batcher: Batcher[Clip, tuple[Decode, Run]] = Batcher(self._decode, scheduler, engine.workers, ahead, settle)

    async def info(self) -> EngineInfo:
        """Which model on which device."""
        return self._engine.info

    async def counts(self) -> dict[str, int]:
        """What the batcher has done so far."""
        counts = self._batcher.counts
        return {
            "batches": counts.batches,
            "items": counts.items,
            "largest": counts.largest,
            "dropped": counts.dropped,
        }

    async def stream(self, request: TranscribeRequest) -> AsyncIterator[Begun | WindowResult]:
        """`transcribe`, and before its result word that the window's turn has come."""
        turn = asyncio.Event()

        async def begun() -> None:
            turn.set()
            if request.alone:
                # It is on trial: the word must be out before the window can do harm.
                await asyncio.sleep(HEARD_S)

        work = asyncio.create_task(self.transcribe(request, begun))
        waiting = asyncio.create_task(turn.wait())
        try:
            await asyncio.wait([work, waiting], return_when=asyncio.FIRST_COMPLETED)
            if turn.is_set():
                yield Begun()
            yield await work
        finally:
            work.cancel()
            waiting.cancel()

    async def transcribe(
        self, request: TranscribeRequest, begun: Callable[[], Awaitable[None]] | None = None
    ) -> WindowResult:
        """Decode a window to its end: where the text stops before the speech does, the rest is decoded as well. `begun` is
        awaited whenever its turn has come. Raises EngineFailed."""
        window: Window | None = request.window
        segments: list[Segment] = []
        runs: list[Run] = []
        language, certainty = None, 0.0
        while window is not None:
            prefix = channel_prefix(request.pcm_prefix, window.channel)
            audio = await asyncio.to_thread(read_pcm, self._artifacts, prefix, window.start, window.end)
            decode, verdict = await self._believable(request, audio, window, begun, runs)
            if language is None:
                language, certainty = decode.language, decode.language_probability
            if not verdict.silent:
                offset = window.start / SAMPLE_RATE
                segments += [replace(shifted(s, offset), flags=verdict.flags) for s in decode.segments]
            window = self._rest(window, decode)
        device = self._engine.info.device
        fill, decode_s = max(run.fill for run in runs), sum(run.seconds for run in runs)
        return WindowResult(
            request.window.index, tuple(segments), language, device, certainty, len(runs), fill, round(decode_s, 3)
        )

    @staticmethod
    def _rest(window: Window, decode: Decode) -> Window | None:
        """What the decode left of the window; nothing where it made no headway."""
        if decode.ends_at is None or decode.ends_at < 1.0:
            return None
        return remainder(window, window.start + _samples(decode.ends_at))

    async def _believable(
        self,
        request: TranscribeRequest,
        audio: NDArray[np.float32],
        window: Window,
        begun: Callable[[], Awaitable[None]] | None,
        runs: list[Run],
    ) -> tuple[Decode, Verdict]:
        """Decode, and while the result is doubtful decode again with more care; the likeliest counts. `runs` gets
        what each decode cost."""
        best: tuple[Decode, Verdict] | None = None
        for how in tries(request.options.temperature):
            if best and best[0].whole and how == Try(request.options.temperature, whole=True):
                continue  # that is how it was decoded
            decode, run = await self._submit(request, Clip(audio, request.options, how), begun)
            runs.append(run)
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
            if not verdict.doubtful or (decode.whole and verdict.only_sparse):
                break
        assert best is not None
        return best

    async def _submit(
        self, request: TranscribeRequest, clip: Clip, begun: Callable[[], Awaitable[None]] | None
    ) -> tuple[Decode, Run]:
        try:
            return await self._batcher.submit(
                clip,
                job=request.job,
                tenant=request.tenant,
                seconds=len(clip.audio) / SAMPLE_RATE,
                urgency=request.urgency,
                kind=self._engine.kind(clip),
                alone=request.alone,
                begun=begun,
            )
        except Exception as error:
            raise EngineFailed(f"The model could not decode a part of the audio ({type(error).__name__}).") from error

    async def _decode(self, clips: Sequence[Clip]) -> Sequence[tuple[Decode, Run]]:
        began = time.monotonic()
        decodes = await asyncio.get_running_loop().run_in_executor(self._threads, self._engine.decode, clips)
        run = Run(len(clips) / self._engine.batch, (time.monotonic() - began) / len(clips))
        return [(decode, run) for decode in decodes]


def _samples(seconds: float) -> int:
    return int(seconds * SAMPLE_RATE)


def _rank(decode: Decode, verdict: Verdict) -> tuple[bool, bool, float]:
    return not verdict.doubtful, not {"repetitive", "cut_off"} & set(verdict.flags), decode.log_probability
