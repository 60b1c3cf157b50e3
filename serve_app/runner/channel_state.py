"""Where the text of a job stands, a channel at a time."""

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


@dataclass(slots=True)
class Timeline:
    """Where the text of a channel ends, in seconds, and what language its windows are in; until that is known, the windows
    that are `hearing`, in order. Each channel has its own vote: where two sides are recorded apart, one may be the other's
    interpreter."""

    end_s: float
    vote: LanguageVote
    hearing: list[DecodeTask] = field(default_factory=list)

    def note(self, task: DecodeTask) -> None:
        """A window is being heard."""
        if self.vote.first is None:
            self.hearing.append(task)

    def settle(self, result: WindowResult) -> None:
        """A window was heard; they come in order, and the first that has something to say tells what language is likely."""
        if self.vote.first is None:
            self.hearing.pop(0)
            if result.segments and result.language:
                self.vote.first = result.language
                self.hearing.clear()


class Timelines:
    """A job's: one for each channel that is kept apart, or one for the mix. A window's vote counts for those that are
    `behind` it or further."""

    def __init__(self, job: Job, behind: int) -> None:
        self._job = job
        self._behind = behind
        self._lines: dict[int | None, Timeline] = {}
        if not job.spec.channels:
            self._lines[None] = self._new(job.checkpoint.end_s, job.checkpoint.language)

    async def recall(self, store: Store) -> None:
        """Find out from what was told where channels stand: the checkpoint knows it of the mix alone."""
        if not self._job.spec.channels or not self._job.checkpoint.segments:
            return
        async for event in segments_of(store, self._job.id):
            told = orjson.loads(event.data)
            self._lines[told["channel"]] = self._new(told["end"], told.get("language"))

    def of(self, channel: int | None) -> Timeline:
        """A channel's."""
        return self._lines.setdefault(channel, self._new())

    @property
    def end_s(self) -> float:
        """Where the one ends that goes furthest."""
        return max((line.end_s for line in self._lines.values()), default=0.0)

    def _new(self, end_s: float = 0.0, language: str | None = None) -> Timeline:
        return Timeline(end_s, LanguageVote(self._job.spec.language or language, end_s, self._behind))


DecodeTask = asyncio.Task[WindowResult]


Hear = Callable[[str | None], Awaitable[WindowResult]]
"""The language that is likely, if one is known → what a window says."""


async def heard(hear: Hear, likely: str | None, earlier: Sequence[DecodeTask]) -> WindowResult:
    """What a window says. The windows before it are `earlier`, those that are being heard too, in order: where nobody knows
    yet what language is likely, it is not waited for, and one in doubt asks them afterwards. So the text does not depend on
    the pace, and no recording waits for its first window."""
    result = await hear(likely)
    if likely or result.language_probability >= CERTAIN or not (first := await first_language(earlier)):
        return result
    # What was heard by chance is what would have been assumed.
    return replace(result, language_probability=0.0) if first == result.language else await hear(first)


async def first_language(earlier: Sequence[DecodeTask]) -> str | None:
    """The language of the first of them that has something to say."""
    for task in earlier:
        await asyncio.wait([task])  # to be cancelled while it waits must not cancel the other
        result = task.result()
        if result.segments and result.language:
            return result.language
    return None
