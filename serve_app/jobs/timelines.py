"""Where the text of a job stands, a channel at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import orjson

from batching.languages import Vote
from deployments.messages import WindowResult
from serve_app.jobs.doubts import Task
from serve_app.jobs.models import Event, EventKind, Job
from serve_app.jobs.store import Store


@dataclass(slots=True)
class Timeline:
    """Where the text of a channel ends, in seconds, and what language its windows are in; until that is known, the windows
    that are `hearing`, in order. Each channel has its own vote: where two sides are recorded apart, one may be the other's
    interpreter."""

    end_s: float
    vote: Vote
    hearing: list[Task] = field(default_factory=list)

    def note(self, task: Task) -> None:
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
        return Timeline(end_s, Vote(self._job.spec.language or language, end_s, self._behind))


async def segments_of(store: Store, job_id: str) -> AsyncIterator[Event]:
    """The segments that a job's stream tells, in order."""
    after = "0"
    while events := await store.events(job_id, after):
        for event in events:
            if event.kind is EventKind.SEGMENT:
                yield event
        after = events[-1].id
