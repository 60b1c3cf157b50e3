"""State of a job's channels: place in the audio, end of the text, language detection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from batching.language_vote import CERTAIN, LanguageVote
from batching.types import Window
from batching.windows import remainder
from deployments.errors import EngineFailed, PoisonPill
from deployments.messages import WindowResult
from serve_app.models.job import ChannelCheckpoint, Job


@dataclass(frozen=True, slots=True)
class WindowFailure:
    """A window that was given up."""

    error: EngineFailed | PoisonPill


Decoded = WindowResult | WindowFailure
DecodeTask = asyncio.Task[Decoded]
Decode = Callable[[str | None], Awaitable[WindowResult]]  # decodes a window, given the likely language


@dataclass(slots=True)
class ChannelState:
    # A vote for each channel: one side of a call may be an interpreter.

    vote: LanguageVote
    until: int = 0  # samples before this one are committed
    dispatched_until: int = 0  # samples before this one are committed or in flight
    end_s: float = 0.0  # end of the text
    votes: dict[str, float] = field(default_factory=dict)  # all that were counted: seconds by language
    undetermined: list[DecodeTask] = field(default_factory=list)  # in flight, in order, until a language is detected

    def rest_of(self, window: Window) -> Window | None:
        """The part of a window that is neither committed nor in flight; None if there is none."""
        # A resumed job may be planned anew, with other borders. Speech decides: a window that overlaps the one before, where
        # speech runs on across a cut, begins earlier than its speech.
        since = self.dispatched_until
        if not window.speech or window.speech[0].start >= since:
            return window if window.joined else replace(window, start=max(window.start, since))
        rest = remainder(window, since, margin_s=0.0)
        return replace(rest, joined=False) if rest else None

    def dispatched(self, window: Window, task: DecodeTask) -> None:
        self.dispatched_until = _end(window)
        if self.vote.first is None:
            self.undetermined.append(task)

    def decoded(self, window: Window, result: Decoded) -> None:
        # Called in order of windows; the first with text determines the likely language.
        self.until = _end(window)
        language = result.language if isinstance(result, WindowResult) and result.segments else None
        if self.vote.first is None:
            self.undetermined.pop(0)
            if language:
                self.vote.first = language
                self.undetermined.clear()
        if isinstance(result, WindowResult) and language:
            weight = window.speech_s * result.language_probability
            self.vote.count(window.index, language, weight)
            self.votes[language] = self.votes.get(language, 0.0) + weight

    @property
    def checkpoint(self) -> ChannelCheckpoint:
        return ChannelCheckpoint(self.until, self.end_s, dict(self.votes))


def _end(window: Window) -> int:
    # The silence after it belongs to no window, and words after a cut to the next.
    return window.speech[-1].end if window.speech else window.end


class ChannelStates:
    """State of each separate channel of a job, or of the mix (None)."""

    def __init__(self, job: Job, windows_in_flight: int) -> None:
        self._requested = job.spec.language
        self._windows_in_flight = windows_in_flight
        self._states = {channel: self._restored(state) for channel, state in job.checkpoint.channels.items()}

    def of(self, channel: int | None) -> ChannelState:
        if channel not in self._states:
            self._states[channel] = self._restored(ChannelCheckpoint())
        return self._states[channel]

    @property
    def end_s(self) -> float:
        return max((state.end_s for state in self._states.values()), default=0.0)

    @property
    def language(self) -> str | None:
        """The language with the most speech so far."""
        votes: dict[str, float] = {}
        for state in self._states.values():
            for language, weight in state.votes.items():
                votes[language] = votes.get(language, 0.0) + weight
        return _heaviest(votes)

    def _restored(self, state: ChannelCheckpoint) -> ChannelState:
        lag = self._windows_in_flight
        vote = LanguageVote(self._requested or _heaviest(state.votes), 0.0, lag)
        for language, weight in state.votes.items():
            vote.count(-lag, language, weight)  # counts at once
        return ChannelState(vote, state.until, state.until, state.end_s, dict(state.votes))


def _heaviest(votes: Mapping[str, float]) -> str | None:
    return max(votes, key=votes.__getitem__, default=None)


async def decode_with_language_retry(
    decode: Decode, likely: str | None, earlier: Sequence[asyncio.Task[WindowResult] | DecodeTask]
) -> WindowResult:
    """Decode a window; if its language detection is uncertain, decode again in the language of the `earlier` windows in
    flight, so that the text does not depend on their pace."""
    result = await decode(likely)
    if likely or result.language_probability >= CERTAIN or not (first := await _first_language(earlier)):
        return result
    # The uncertain guess equals the fallback: keep the decode, but give it no vote.
    return replace(result, language_probability=0.0) if first == result.language else await decode(first)


async def _first_language(earlier: Sequence[asyncio.Task[WindowResult] | DecodeTask]) -> str | None:
    for task in earlier:
        await asyncio.wait([task])  # unlike `await task`, a cancel here does not cancel the other window
        result = task.result()
        if isinstance(result, WindowResult) and result.segments and result.language:
            return result.language
    return None
