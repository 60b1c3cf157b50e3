"""State of a job's channels, and their language detection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import orjson

from batching.language_vote import CERTAIN, LanguageVote
from deployments.messages import WindowResult
from serve_app.jobs.event_stream import segments_of
from serve_app.models.job import Job
from serve_app.store.redis_store import Store

DecodeTask = asyncio.Task[WindowResult]
Decode = Callable[[str | None], Awaitable[WindowResult]]  # decodes a window, given the likely language


@dataclass(slots=True)
class ChannelState:
    # A vote for each channel: one side of a call may be an interpreter.

    end_s: float  # end of the text
    vote: LanguageVote
    undetermined: list[DecodeTask] = field(default_factory=list)  # in flight, in order, until a language is detected

    def dispatched(self, task: DecodeTask) -> None:
        if self.vote.first is None:
            self.undetermined.append(task)

    def decoded(self, result: WindowResult) -> None:
        # Called in order of windows; the first with text determines the likely language.
        if self.vote.first is None:
            self.undetermined.pop(0)
            if result.segments and result.language:
                self.vote.first = result.language
                self.undetermined.clear()


class ChannelStates:
    """State of each separate channel of a job, or of the mix (None)."""

    def __init__(self, job: Job, windows_in_flight: int) -> None:
        self._job = job
        self._windows_in_flight = windows_in_flight
        self._states: dict[int | None, ChannelState] = {}
        if not job.spec.channels:
            self._states[None] = self._new(job.checkpoint.end_s, job.checkpoint.language)

    async def restore(self, store: Store) -> None:
        """Restore separate channels from the event stream; the checkpoint has the mix only."""
        if not self._job.spec.channels or not self._job.checkpoint.segments:
            return
        async for event in segments_of(store, self._job.id):
            segment = orjson.loads(event.data)
            self._states[segment["channel"]] = self._new(segment["end"], segment.get("language"))

    def of(self, channel: int | None) -> ChannelState:
        return self._states.setdefault(channel, self._new())

    @property
    def end_s(self) -> float:
        return max((state.end_s for state in self._states.values()), default=0.0)

    def _new(self, end_s: float = 0.0, language: str | None = None) -> ChannelState:
        return ChannelState(end_s, LanguageVote(self._job.spec.language or language, end_s, self._windows_in_flight))


async def decode_with_language_retry(decode: Decode, likely: str | None, earlier: Sequence[DecodeTask]) -> WindowResult:
    """Decode a window; if its language detection is uncertain, decode again in the language of the `earlier` windows in
    flight, so that the text does not depend on their pace."""
    result = await decode(likely)
    if likely or result.language_probability >= CERTAIN or not (first := await _first_language(earlier)):
        return result
    # The uncertain guess equals the fallback: keep the decode, but give it no vote.
    return replace(result, language_probability=0.0) if first == result.language else await decode(first)


async def _first_language(earlier: Sequence[DecodeTask]) -> str | None:
    for task in earlier:
        await asyncio.wait([task])  # unlike `await task`, a cancel here does not cancel the other window
        result = task.result()
        if result.segments and result.language:
            return result.language
    return None
