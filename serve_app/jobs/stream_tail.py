"""The end of one job's stream, read from Redis once for everybody in this process who follows the job."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from serve_app.models.event import Event, EventKind, event_order
from serve_app.models.job import Job
from serve_app.store.redis_store import Store

PAGE = 500
KEPT = 500
"""Events that are held at least for readers who are a little behind; who is further behind reads alone."""


@dataclass(frozen=True, slots=True)
class Look:
    """What comes after an event. Where that is nothing: the job if there is one, and whether its stream is kept."""

    events: list[Event]
    job: Job | None = None
    kept: bool = True


class StreamTail:
    """What was read of a stream since its first reader came. What all wait for one of them reads, and nothing is asked
    twice unless `grow` was called in between. `reading` bounds how many reads go on at once, over all tails."""

    def __init__(self, store: Store, job_id: str, reading: AbstractAsyncContextManager[object]) -> None:
        self._store = store
        self._job_id = job_id
        self._reading = reading
        self._turn = asyncio.Lock()
        self._grown = asyncio.Event()
        self._grown.set()
        self._from: str | None = None
        self._events: list[Event] = []
        self._end: Look | None = None
        self.readers = 0
        self.ended = False
        """Whether it holds a `done`. Then it is for those who read it now: a job that is tried again has another end."""

    def grow(self) -> None:
        """There may be more than was read."""
        self._grown.set()

    async def grown(self) -> None:
        """Wait until there may be."""
        await self._grown.wait()

    async def look(self, after: str) -> Look:
        """What comes after the event `after`, some of it at least. StoreUnavailable where Redis was asked in vain."""
        place = event_order(after)
        while (look := self._known(place)) is None:
            if self._events and place < event_order(self._from or "0"):
                return await self._ask(after)
            async with self._turn:
                # Whoever had the turn before may have read it for us.
                if self._known(place) is None and (alone := await self._read(after)):
                    return alone
        return look

    def _known(self, place: tuple[int, int]) -> Look | None:
        """What is told from memory; None where Redis must be asked."""
        if self._from is None or place < event_order(self._from):
            return None
        if later := self._events[bisect_right(self._events, place, key=lambda event: event_order(event.id)) :]:
            return Look(later)
        return None if self._grown.is_set() else self._end

    async def _read(self, after: str) -> Look | None:
        """Read on for all. Only what a reader finds who is far from the end, while nobody is near, is for him alone."""
        # A reader may name an event that is still to come: what we know begins at the lowest of their places.
        begin = self._from
        if lowest := begin is None or (not self._events and event_order(after) < event_order(begin)):
            begin = after
        self._grown.clear()
        self._end = None
        try:
            look = await self._ask(self._events[-1].id if self._events else begin)
        except BaseException:
            self._grown.set()
            raise
        if len(look.events) == PAGE:
            self._grown.set()
            if lowest:
                return look
        self._from = begin
        self._events += look.events
        if not look.events:
            self._end = look
        self.ended |= any(event.kind is EventKind.DONE for event in look.events)
        if len(self._events) > 2 * KEPT:
            self._from = self._events[-KEPT - 1].id
            del self._events[:-KEPT]
        return None

    async def _ask(self, after: str) -> Look:
        async with self._reading:
            events = await self._store.events.read(self._job_id, after, PAGE)
            if events:
                return Look(events)
            return Look([], await self._store.jobs.get(self._job_id), await self._store.events.exists(self._job_id))
