"""class StreamTail: in-memory tail of a job's events for all readers of this process."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from serve_app.models.event import Event, EventKind, event_order
from serve_app.models.job import Job
from serve_app.store.redis_store import Store

PAGE = 500  # events of one read
RETAINED = 500  # events kept in memory at least; a slower reader falls back to its own reads


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Events after an event; if there are none, the state of job and stream."""

    events: list[Event]
    job: Job | None = None  # None if it is deleted
    stream_exists: bool = True


class StreamTail:
    """Single-flight: one reader reads Redis for all, once after each `notify`."""

    def __init__(self, store: Store, job_id: str, read_slots: AbstractAsyncContextManager[object]) -> None:
        self._store = store
        self._job_id = job_id
        self._read_slots = read_slots  # bounds the reads of all tails
        self._flight = asyncio.Lock()
        self._changed = asyncio.Event()
        self._changed.set()
        self._start: str | None = None  # the events in memory are those after this one
        self._events: list[Event] = []
        self._caught_up: StreamPage | None = None  # empty page after the last event, until `notify`
        self.readers = 0
        self.ended = False  # a `done` was read: later readers need a new tail, since a retried job ends again

    def notify(self) -> None:
        self._changed.set()

    async def changed(self) -> None:
        await self._changed.wait()

    async def read(self, after: str) -> StreamPage:
        """Page after the event id `after`. Raises StoreUnavailable."""
        position = event_order(after)
        while (page := self._from_memory(position)) is None:
            if self._events and position < event_order(self._start or "0"):
                return await self._fetch(after)
            async with self._flight:
                # Another reader may have read it while this one waited.
                if self._from_memory(position) is None and (own := await self._advance(after)):
                    return own
        return page

    def _from_memory(self, position: tuple[int, int]) -> StreamPage | None:
        if self._start is None or position < event_order(self._start):
            return None
        if later := self._events[bisect_right(self._events, position, key=lambda event: event_order(event.id)) :]:
            return StreamPage(later)
        return None if self._changed.is_set() else self._caught_up

    async def _advance(self, after: str) -> StreamPage | None:
        """Read on for all readers. Returns a page only for a reader far behind."""
        # The first reader may resume after an event that does not exist yet. While memory is empty, its start therefore
        # moves back for a reader that is further behind.
        start, moves_start = self._start, False
        if start is None or (not self._events and event_order(after) < event_order(start)):
            start, moves_start = after, True
        self._changed.clear()
        self._caught_up = None
        try:
            page = await self._fetch(self._events[-1].id if self._events else start)
        except BaseException:
            self._changed.set()
            raise
        if len(page.events) == PAGE:
            self._changed.set()
            if moves_start:
                return page
        self._start = start
        self._events += page.events
        if not page.events:
            self._caught_up = page
        self.ended |= any(event.kind is EventKind.DONE for event in page.events)
        if len(self._events) > 2 * RETAINED:
            self._start = self._events[-RETAINED - 1].id
            del self._events[:-RETAINED]
        return None

    async def _fetch(self, after: str) -> StreamPage:
        async with self._read_slots:
            events = await self._store.events.read(self._job_id, after, PAGE)
            if events:
                return StreamPage(events)
            job = await self._store.jobs.get(self._job_id)
            return StreamPage([], job, await self._store.events.exists(self._job_id))
