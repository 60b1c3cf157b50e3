"""Scheduling policy: tickets in, batches out. No clock, no threads, no I/O."""

# Start-time fair queueing (Goyal, Vin, Cheng: "Start-time fair queuing", SIGCOMM 1996) between tenants, by weight; strict
# priority between the urgency classes of a tenant; start-time fair queueing between the jobs of a class; first in, first
# out inside a job. Tenants come first: were urgency compared across tenants, whoever calls all work urgent would get the
# whole model.

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from operator import itemgetter
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Ticket:
    """Queued item."""

    number: int  # unique, identifies the item
    job: str
    tenant: str
    cost: float  # seconds of audio
    urgency: int = 0  # lower is served first, inside its tenant
    kind: Hashable = None  # only tickets of equal kind share a batch
    exclusive: bool = False  # shares a batch with no other ticket


@dataclass(slots=True)
class _Queue:
    """Node of the tree root > tenant > urgency class > job; only jobs hold tickets."""

    # Order of service among its siblings: the urgency of a class, else the start tag, the virtual time at which its next
    # ticket may start. A start tag grows by `pace` times the cost of each ticket served.
    rank: float = 0.0
    pace: float = 0.0
    # Virtual time of its children: the start tag of the child that is due. A new child starts there: no credit for idling.
    virtual_time: float = 0.0
    waiting: int = 0
    children: dict[Hashable, _Queue] = field(default_factory=dict)
    tickets: dict[int, Ticket] = field(default_factory=dict)  # by number, in the order of arrival

    def tenant(self, name: str, weight: float) -> _Queue:
        return self._join(name, 1 / weight)

    def urgency(self, urgency: int) -> _Queue:
        return self.children.setdefault(urgency, _Queue(urgency))

    def job(self, name: str) -> _Queue:
        return self._join(name, 1.0)

    def _join(self, name: str, pace: float) -> _Queue:
        child = self.children.setdefault(name, _Queue(pace=pace))
        child.rank = max(child.rank, self.virtual_time)
        return child

    def head(self) -> Ticket | None:
        queue = self
        while queue.children:
            queue = min((child for child in queue.children.values() if child.waiting), key=_rank, default=_NONE)
        return next(iter(queue.tickets.values()), None)

    def like(self, kind: Hashable) -> Iterator[Ticket]:
        """Tickets of a kind in the order of service; each must be served before the next is taken."""
        if self.tickets:
            yield from [t for t in self.tickets.values() if t.kind == kind and not t.exclusive]
            return
        siblings = enumerate(child for child in self.children.values() if child.waiting)
        heap = [(child.rank, position, child, child.like(kind)) for position, child in siblings]
        heapify(heap)
        while heap:
            _, position, child, tickets = heap[0]
            if (ticket := next(tickets, None)) is None:
                heappop(heap)
                continue
            yield ticket
            heapreplace(heap, (child.rank, position, child, tickets))  # its start tag has grown

    def settle(self, now: float | None = None) -> None:
        """Move the virtual time on, to `now` or the start tag that is due, and drop idle children to bound memory."""
        # An idle child that is ahead of the virtual time keeps its start tag: no gain from trickling requests.
        ranks = [child.rank for child in self.children.values() if child.waiting]
        self.virtual_time = now = now if ranks and now is not None else min(ranks, default=0.0)
        self.children = {n: c for n, c in self.children.items() if c.waiting or (ranks and c.pace and c.rank > now)}


_NONE = _Queue()


def _rank(queue: _Queue) -> float:
    return queue.rank


class Scheduler:
    """Forms batches of at most `max_items` tickets and, beyond the first ticket, `max_cost`."""

    # Where a batch takes as long as all its items together, as on a CPU, urgent ones are not decoded beside others that are
    # less so: `mixed` is for accelerators, on which these cost hardly any time.
    def __init__(
        self, max_items: int, max_cost: float, weights: Mapping[str, float] = MappingProxyType({}), *, mixed: bool = True
    ) -> None:
        self._mixed = mixed
        self._max_items = max_items
        self._max_cost = max_cost
        self._weights = weights  # of tenants, 1 for those not named
        self._root = _Queue()

    def shrink(self, max_items: int, max_cost: float) -> None:
        """Form smaller batches from now on."""
        self._max_items = min(max_items, self._max_items)
        self._max_cost = min(max_cost, self._max_cost)

    def __len__(self) -> int:
        return self._root.waiting

    def add(self, ticket: Ticket) -> None:
        tenant = self._root.tenant(ticket.tenant, self._weights.get(ticket.tenant, 1.0))
        urgency = tenant.urgency(ticket.urgency)
        job = urgency.job(ticket.job)
        job.tickets[ticket.number] = ticket
        for queue in (self._root, tenant, urgency, job):
            queue.waiting += 1

    def discard(self, ticket: Ticket) -> None:
        """Remove a ticket if it still waits."""
        path = self._path(ticket)
        if path and ticket.number in path[-1].tickets:
            self._dequeue(ticket, path)
            self._settle([ticket], self._root.virtual_time)

    def head(self) -> Ticket | None:
        """Peek at the next ticket."""
        return self._root.head()

    def next_batch(self, limit: int | None = None) -> list[Ticket]:
        """Dequeue at most `limit` tickets; none when nothing waits."""
        max_items = self._max_items if limit is None else min(limit, self._max_items)
        head = self.head()
        if head is None:
            return []
        batch: list[Ticket] = []
        cost = 0.0
        # The time of tenants is the start tag of the batch in service: one that comes now goes before the next batch of
        # those that have been served, not after it.
        now = self._root.children[head.tenant].rank
        # Others of the head's kind may overtake older tickets of other kinds: those could not join this batch anyway, so
        # nothing waits longer.
        for ticket in [head] if head.exclusive else self._root.like(head.kind):
            if not self._mixed and ticket.urgency > head.urgency:
                continue
            if batch and cost + ticket.cost > self._max_cost:
                break
            self._serve(ticket)
            batch.append(ticket)
            cost += ticket.cost
            if len(batch) == max_items:
                break
        self._settle(batch, now)
        return batch

    def _serve(self, ticket: Ticket) -> None:
        path = self._path(ticket)
        for child in path[1:]:
            child.rank += child.pace * ticket.cost
        self._dequeue(ticket, path)

    def _dequeue(self, ticket: Ticket, path: list[_Queue]) -> None:
        del path[-1].tickets[ticket.number]
        for queue in path:
            queue.waiting -= 1

    def _settle(self, gone: Iterable[Ticket], now: float) -> None:
        # Leaves first: a parent drops them.
        parents = {id(queue): (-depth, queue) for ticket in gone for depth, queue in enumerate(self._path(ticket)[:-1])}
        for _, queue in sorted(parents.values(), key=itemgetter(0)):
            queue.settle(now if queue is self._root else None)

    def _path(self, ticket: Ticket) -> list[_Queue]:
        """From the root to the ticket's job; empty if one of them is gone."""
        path = [self._root]
        for name in (ticket.tenant, ticket.urgency, ticket.job):
            if (child := path[-1].children.get(name)) is None:
                return []
            path.append(child)
        return path
