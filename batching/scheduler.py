"""Which windows next. Pure policy: it holds tickets, answers with a batch, and knows neither time nor threads.

Urgent before the rest; then the tenant that has had the least audio decoded, and of its jobs the one that has had the
least (start-time fair queueing on two levels, Goyal 1996); first in, first out inside a job and kind. One who comes
late starts level with the one whose turn it is, nobody saves up turns by waiting; and who has had more than that is
remembered for it, nobody gets more by handing in one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Ticket:
    """A window that waits. `urgency` 0 goes first; only tickets of one `kind` share a batch, and one that is `alone` shares
    with none; `seconds` is the cost."""

    number: int
    job: str
    tenant: str
    seconds: float
    urgency: int = 0
    kind: Hashable = None
    alone: bool = False


@dataclass(slots=True)
class _Queue:
    """Somebody who is served by turns: a class of urgency, a tenant in it, a job of that. `served` is the seconds it has
    had; `clock` is what the one of its own whose turn it was had had then."""

    served: float = 0.0
    clock: float = 0.0
    waiting: int = 0
    inner: dict[str, _Queue] = field(default_factory=dict)
    tickets: deque[Ticket] = field(default_factory=deque)

    def enter(self, name: str) -> _Queue:
        """One of its own, level with the clock if it comes late."""
        queue = self.inner.setdefault(name, _Queue())
        queue.served = max(queue.served, self.clock)
        return queue

    def turns(self) -> list[_Queue]:
        """Those of its own that wait, in the order of their turns."""
        return sorted((queue for queue in self.inner.values() if queue.waiting), key=lambda queue: queue.served)

    def forget(self) -> None:
        """Drop those who neither wait nor have had more than their turn: the books must not grow with all who came."""
        if not self.waiting:
            self.inner.clear()
        self.inner = {name: q for name, q in self.inner.items() if q.waiting or q.served > self.clock}


class Scheduler:
    """Tickets in, batches out, at most `max_items` tickets and (beyond the first) `max_seconds` of audio a batch."""

    def __init__(self, max_items: int, max_seconds: float) -> None:
        self._max_items = max_items
        self._max_seconds = max_seconds
        self._classes: dict[int, _Queue] = {}

    def __len__(self) -> int:
        return sum(queue.waiting for queue in self._classes.values())

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        urgent = self._classes.setdefault(ticket.urgency, _Queue())
        tenant = urgent.enter(ticket.tenant)
        job = tenant.enter(ticket.job)
        job.tickets.append(ticket)
        for queue in (urgent, tenant, job):
            queue.waiting += 1

    def discard(self, ticket: Ticket) -> None:
        """Forget one ticket, if it still waits."""
        path = self._path(ticket)
        if path and ticket in path[-1].tickets:
            path[-1].tickets.remove(ticket)
            self._leave(ticket, path)

    def head(self) -> Ticket | None:
        """The ticket whose turn is next; it stays where it is."""
        return next((job.tickets[0] for job in self._jobs()), None)

    def next_batch(self, limit: int | None = None) -> list[Ticket]:
        """Take the next batch, of at most `limit` tickets when given. Empty when nothing waits."""
        room = self._max_items if limit is None else min(limit, self._max_items)
        batch: list[Ticket] = []
        seconds = 0.0
        while len(batch) < room:
            found = self._like(batch[0]) if batch else self.head()
            if found is None or (batch and seconds + found.seconds > self._max_seconds):
                break
            self._take(found)
            batch.append(found)
            seconds += found.seconds
            if found.alone:
                break
        return batch

    def _like(self, first: Ticket) -> Ticket | None:
        """The next one that may share the batch. It may overtake its elders of other kinds, which nobody is kept waiting
        by: the batch would run without it too."""
        return next((t for job in self._jobs() for t in job.tickets if t.kind == first.kind and not t.alone), None)

    def _jobs(self) -> Iterator[_Queue]:
        """All jobs that wait, in the order in which they deserve their turn."""
        for urgency in sorted(self._classes):
            for tenant in self._classes[urgency].turns():
                yield from tenant.turns()

    def _take(self, ticket: Ticket) -> None:
        path = self._path(ticket)
        for outer, inner in pairwise(path):
            outer.clock = outer.turns()[0].served
            inner.served += ticket.seconds
        path[-1].tickets.remove(ticket)
        self._leave(ticket, path)

    def _leave(self, ticket: Ticket, path: list[_Queue]) -> None:
        for queue in path:
            queue.waiting -= 1
        for queue in path[:-1]:
            queue.forget()
        if not path[0].waiting:
            del self._classes[ticket.urgency]

    def _path(self, ticket: Ticket) -> list[_Queue]:
        """The ticket's class, tenant and job; nothing where one of them is not there."""
        urgent = self._classes.get(ticket.urgency)
        tenant = urgent and urgent.inner.get(ticket.tenant)
        job = tenant and tenant.inner.get(ticket.job)
        return [urgent, tenant, job] if urgent and tenant and job else []
