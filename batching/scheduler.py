"""Which windows next. Pure policy: it holds tickets, answers with a batch, and knows neither time nor threads.

Urgent before the rest; then the tenant that has had the least audio decoded, and of its jobs the one that has had the
least (start-time fair queueing on two levels, Goyal 1996); first in, first out inside a job. One who comes late starts
level with the one who is furthest behind: nobody saves up turns by waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ticket:
    """A window that waits. `urgency` 0 goes first; only tickets of one `kind` share a batch; `seconds` is the cost."""

    number: int
    job: str
    tenant: str
    seconds: float
    urgency: int = 0
    kind: Hashable = None


@dataclass(slots=True)
class _Job:
    served: float
    tickets: deque[Ticket] = field(default_factory=deque)


@dataclass(slots=True)
class _Tenant:
    served: float
    jobs: dict[str, _Job] = field(default_factory=dict)


class Scheduler:
    """Tickets in, batches out, at most `max_items` tickets and (beyond the first) `max_seconds` of audio a batch."""

    def __init__(self, max_items: int, max_seconds: float) -> None:
        self._max_items = max_items
        self._max_seconds = max_seconds
        self._classes: dict[int, dict[str, _Tenant]] = {}
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def add(self, ticket: Ticket) -> None:
        """Let a ticket wait."""
        tenants = self._classes.setdefault(ticket.urgency, {})
        level = min((t.served for t in tenants.values()), default=0.0)
        tenant = tenants.setdefault(ticket.tenant, _Tenant(level))
        level = min((j.served for j in tenant.jobs.values()), default=0.0)
        tenant.jobs.setdefault(ticket.job, _Job(level)).tickets.append(ticket)
        self._waiting += 1

    def discard(self, ticket: Ticket) -> None:
        """Forget one ticket, if it still waits."""
        tenant = self._classes.get(ticket.urgency, {}).get(ticket.tenant)
        job = tenant and tenant.jobs.get(ticket.job)
        if job and ticket in job.tickets:
            job.tickets.remove(ticket)
            self._waiting -= 1
            self._prune()

    def next_batch(self, limit: int | None = None) -> list[Ticket]:
        """Take the next batch, of at most `limit` tickets when given. Empty when nothing waits."""
        room = min(limit or self._max_items, self._max_items)
        batch: list[Ticket] = []
        seconds = 0.0
        while len(batch) < room:
            found = self._first(batch[0].kind if batch else None, any_kind=not batch)
            if found is None or (batch and seconds + found.seconds > self._max_seconds):
                break
            batch.append(self._take(found))
            seconds += found.seconds
        self._prune()
        return batch

    def _first(self, kind: Hashable, *, any_kind: bool) -> Ticket | None:
        return next((t for t in self._heads() if any_kind or t.kind == kind), None)

    def _heads(self) -> Iterator[Ticket]:
        """The first ticket of every job, in the order in which they deserve their turn."""
        for urgency in sorted(self._classes):
            for tenant in sorted(self._classes[urgency].values(), key=lambda t: t.served):
                for job in sorted(tenant.jobs.values(), key=lambda j: j.served):
                    if job.tickets:
                        yield job.tickets[0]

    def _take(self, ticket: Ticket) -> Ticket:
        tenant = self._classes[ticket.urgency][ticket.tenant]
        job = tenant.jobs[ticket.job]
        job.tickets.popleft()
        job.served += ticket.seconds
        tenant.served += ticket.seconds
        self._waiting -= 1
        return ticket

    def _prune(self) -> None:
        """Whoever has nothing waiting is forgotten, so that the books do not grow with the number of jobs served."""
        for urgency, tenants in list(self._classes.items()):
            for name, tenant in list(tenants.items()):
                tenant.jobs = {key: job for key, job in tenant.jobs.items() if job.tickets}
                if not tenant.jobs:
                    del tenants[name]
            if not tenants:
                del self._classes[urgency]
