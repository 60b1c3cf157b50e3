"""class TimedStages: deadlines for calls of stages, so that a worker that hangs is noticed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from batching.types import Window
from deployments.errors import StageDied, StageLost
from deployments.messages import (
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)
from serve_app.runner.stages import Stages, ignore_start

log = logging.getLogger(__name__)

LEARNING = 0.1  # weight of the latest measurement in a moving average


@dataclass(frozen=True, slots=True)
class DeadlineRules:
    """Seconds without an answer after which a call counts as lost."""

    decode_s: float = 60.0  # a decode, at least
    first_decode_s: float = 1800.0  # while no decode has been measured
    usual: float = 20.0  # else so many times what is usual
    # In a queue, if nothing else of the stage moved either: a long queue that moves is no fault.
    queue_s: float = 1800.0
    progress_s: float = 600.0  # between two messages of the Transcoder
    fetch_s: float = 86_400.0  # a whole download: the Ingestion ends slow ones itself

    @classmethod
    def for_downloads(cls, max_bytes: int, min_rate: int) -> DeadlineRules:
        """Rules for downloads of at most `max_bytes` and at least `min_rate` bytes per second (0 for any)."""
        return cls(fetch_s=600.0 + max_bytes / min_rate) if min_rate else cls()


@dataclass(slots=True)
class _Pace:
    # Of one model and urgency.

    decode: float | None = None  # seconds of work for one of audio
    wait_s: float = 0.0  # before a decode begins

    def decoded(self, window: Window, seconds: float) -> None:
        rate = seconds / max(window.seconds, 1.0)
        self.decode = rate if self.decode is None else self.decode + LEARNING * (rate - self.decode)

    def waited(self, seconds: float) -> None:
        # A growing backlog counts at once, a shrinking one slowly.
        self.wait_s = max(seconds, self.wait_s + LEARNING * (seconds - self.wait_s))


@dataclass(slots=True)
class _Pulse:
    at: float = field(default_factory=lambda: asyncio.get_running_loop().time())  # the stage last showed a sign of life

    def beat(self) -> None:
        self.at = asyncio.get_running_loop().time()


class TimedStages:
    """Implements Stages around others. A call past its deadline is cancelled and raises StageLost."""

    def __init__(self, stages: Stages, rules: DeadlineRules | None = None) -> None:
        self._stages = stages
        self._rules = rules or DeadlineRules()
        self._paces: dict[tuple[str, int], _Pace] = {}
        self._pulses: dict[str, _Pulse] = {}  # by model, '' for the Transcoder

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """See Ingestion.fetch."""
        fetching = asyncio.ensure_future(self._stages.fetch(request))
        try:
            due = _now() + self._rules.fetch_s
            await self._first_of([fetching], lambda: due, "download")
            return await fetching
        finally:
            await _cancelled(fetching)

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        """See Transcoder.windows."""
        pulse, rules = self._pulses.setdefault("", _Pulse()), self._rules
        async with aclosing(self._stages.windows(request)) as messages:
            began, begun = _now(), False
            while True:
                following = asyncio.ensure_future(anext(messages, None))
                try:
                    since = _now()
                    due = (lambda s=since: s + rules.progress_s) if begun else lambda: max(began, pulse.at) + rules.queue_s
                    await self._first_of([following], due, "transcoding")
                    message = await following
                finally:
                    await _cancelled(following)
                if message is None:
                    return
                begun = True
                pulse.beat()
                yield message

    async def transcribe(
        self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
    ) -> WindowResult:
        """See Transcriber.transcribe. Raises StageDied if the decode has begun: the window may be the cause."""
        pace = self._paces.setdefault((model, request.urgency), _Pace())
        pulse = self._pulses.setdefault(model, _Pulse())
        began = _now()
        started = asyncio.get_running_loop().create_future()

        def start() -> None:
            on_start()
            pulse.beat()
            if not started.done():
                started.set_result(_now())
                pace.waited(_now() - began)

        decoding = asyncio.ensure_future(self._stages.transcribe(model, request, start))
        try:
            await self._first_of([decoding, started], lambda: self._turn_due(began, pulse, pace), "queue of the model")
            if started.done():
                due = started.result() + self._decode_s(pace, request.window)
                await self._first_of([decoding], lambda: due, "decode", StageDied)
            result = await decoding
            pulse.beat()
            pace.decoded(request.window, _now() - (started.result() if started.done() else began))
            return result
        finally:
            await _cancelled(decoding)

    def _turn_due(self, began: float, pulse: _Pulse, pace: _Pace) -> float:
        patience_s = max(self._rules.queue_s, self._rules.usual * pace.wait_s)
        # Alone at a hanging replica beside others that work: its turn never comes, though the model shows signs of life.
        return min(max(began, pulse.at) + patience_s, began + 4 * patience_s)

    def _decode_s(self, pace: _Pace, window: Window) -> float:
        if pace.decode is None:
            return self._rules.first_decode_s
        # A doubtful decode goes back into the queue, and waits there once more.
        usual_s = pace.decode * max(window.seconds, 1.0) + pace.wait_s
        return max(self._rules.decode_s, self._rules.usual * usual_s)

    async def _first_of(
        self,
        futures: Collection[asyncio.Future[Any]],
        due: Callable[[], float],
        name: str,
        error: type[StageLost] = StageLost,
    ) -> None:
        """Wait until one of the futures is done. Raises `error` once `due` has passed, which may move meanwhile."""
        while not any(future.done() for future in futures):
            left_s = due() - _now()
            if left_s <= 0:
                log.warning("%s has passed its deadline, trying elsewhere", name)
                raise error("A worker did not answer in time: try it again.")
            await asyncio.wait(futures, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _cancelled(task: asyncio.Future[Any]) -> None:
    """End a call that is still running, and wait for its end: a generator cannot be closed before."""
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
