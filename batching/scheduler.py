"""Scheduling policy: tickets in, batches out. No clock, no threads, no I/O."""

# Strict priority between urgency classes; inside a class start-time fair queueing (Goyal, Vin, Cheng: "Start-time fair
# queuing", SIGCOMM 1996) between tenants, then between a tenant's jobs; first in, first out inside a job.

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Ticket:
    """Queued item."""

    number: int  # unique, identifies the item
    job: str
    tenant: str
    cost: float  # seconds of audio
    urgency: int = 0  # lower is served first
    kind: Hashable = None  # only tickets of equal kind share a batch
    exclusive: bool = False  # shares a batch with no other ticket


@dataclass(slots=True)
class _Node:
    """Node of the tree urgency class > tenant > job; only jobs hold tickets."""

    # Virtual time at which its next ticket may start: it grows by the cost of each ticket served.
    start_tag: float = 0.0
    # Virtual time of its children: the start tag of the child that was due when a ticket was served last.
    virtual_time: float = 0.0
    waiting: int = 0
    children: dict[str, _Node] = field(default_factory=dict)
    tickets: deque[Ticket] = field(default_factory=deque)

    def join(self, name: str) -> _Node:
        child = self.children.setdefault(name, _Node())
        # A queue that was idle joins at the current virtual time: no credit for idling.
        child.start_tag = max(child.start_tag, self.virtual_time)
        return child

    def backlogged(self) -> list[_Node]:
        """Children with tickets, by start tag."""
        return sorted((child for child in self.children.values() if child.waiting), key=lambda child: child.start_tag)

    def prune(self) -> None:
        # Idle children are dropped to bound memory, but a queue that is ahead of the virtual time keeps its start tag: no
        # gain from trickling requests.
        if not self.waiting:
            self.children.clear()
        self.children = {n: c for n, c in self.children.items() if c.waiting or c.start_tag > self.virtual_time}


class Scheduler:
    """Forms batches of at most `max_items` tickets and, beyond the first ticket, `max_cost`."""

    def __init__(self, max_items: int, max_cost: float) -> None:
        self._max_items = max_items
        self._max_cost = max_cost
        self._classes: dict[int, _Node] = {}  # by urgency

    def __len__(self) -> int:
        return sum(queue.waiting for queue in self._classes.values())

    def add(self, ticket: Ticket) -> None:
        urgency_class = self._classes.setdefault(ticket.urgency, _Node())
        tenant = urgency_class.join(ticket.tenant)
        job = tenant.join(ticket.job)
        job.tickets.append(ticket)
        for queue in (urgency_class, tenant, job):
            queue.waiting += 1

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket if it still waits."""
        path = self._path(ticket)
        if path and ticket in path[-1].tickets:
            self._dequeue(ticket, path)

    def head(self) -> Ticket | None:
        """Peek at the next ticket."""
        return next((job.tickets[0] for job in self._jobs()), None)

    def next_batch(self, limit: int | None = None) -> list[Ticket]:
        """Dequeue at most `limit` tickets; none when nothing waits."""
        max_items = self._max_items if limit is None else min(limit, self._max_items)
        batch: list[Ticket] = []
        cost = 0.0
        while len(batch) < max_items:
            ticket = self._next_like(batch[0]) if batch else self.head()
            if ticket is None or (batch and cost + ticket.cost > self._max_cost):
                break
            self._serve(ticket)
            batch.append(ticket)
            cost += ticket.cost
            if ticket.exclusive:
                break
        return batch

    def _next_like(self, first: Ticket) -> Ticket | None:
        # It may overtake older tickets of other kinds: those could not join this batch anyway, so nothing waits longer.
        return next((t for job in self._jobs() for t in job.tickets if t.kind == first.kind and not t.exclusive), None)

    def _jobs(self) -> Iterator[_Node]:
        """Jobs in the order of service."""
        for urgency in sorted(self._classes):
            for tenant in self._classes[urgency].backlogged():
                yield from tenant.backlogged()

    def _serve(self, ticket: Ticket) -> None:
        path = self._path(ticket)
        for parent, child in pairwise(path):
            parent.virtual_time = parent.backlogged()[0].start_tag
            child.start_tag += ticket.cost
        self._dequeue(ticket, path)

    def _dequeue(self, ticket: Ticket, path: list[_Node]) -> None:
        path[-1].tickets.remove(ticket)
        for queue in path:
            queue.waiting -= 1
        for queue in path[:-1]:
            queue.prune()
        if not path[0].waiting:
            del self._classes[ticket.urgency]

    def _path(self, ticket: Ticket) -> list[_Node]:
        # Empty if the ticket's urgency class, tenant or job is gone.
        urgency_class = self._classes.get(ticket.urgency)
        tenant = urgency_class and urgency_class.children.get(ticket.tenant)
        job = tenant and tenant.children.get(ticket.job)
        return [urgency_class, tenant, job] if urgency_class and tenant and job else []
