"""Dynamic batching: callers `submit` single items, the scheduler forms batches, workers run them."""

# A batch is formed as late as possible, when a worker is free: until then an urgent item can overtake, and an item whose
# caller is cancelled leaves at no cost.

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from batching.scheduler import Scheduler, Ticket

Item = TypeVar("Item")
Result = TypeVar("Result")
RunBatch = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]  # one result per item, in order
Hook = Callable[[], Awaitable[None]]


async def no_linger() -> None:
    await asyncio.sleep(0)  # items submitted in the same turn of the event loop still share a batch


@dataclass(slots=True)
class BatchStats:
    """Counters since the start."""

    batches: int = 0
    items: int = 0
    largest: int = 0  # items in the largest batch
    dropped: int = 0  # items whose caller was cancelled while they waited


@dataclass(frozen=True, slots=True)
class _Request(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    on_start: Hook | None


class Batcher(Generic[Item, Result]):
    """Runs up to `workers` batches at once, and `prefetch` more that prepare their input meanwhile."""

    def __init__(
        self,
        run_batch: RunBatch[Item, Result],
        scheduler: Scheduler,
        workers: int = 1,
        prefetch: int = 0,
        linger: Hook = no_linger,
    ) -> None:
        self._run_batch = run_batch
        self._scheduler = scheduler
        self._workers = workers
        self._slots = self._free_slots = workers + prefetch
        # An item that finds a free slot waits for `linger`, so that items submitted right after it share its batch.
        self._linger = linger
        self._lingering: asyncio.Task[None] | None = None
        self._exclusive = False
        self._waiting: dict[int, _Request[Item, Result]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._next_number = 0
        self.stats = BatchStats()

    async def submit(
        self,
        item: Item,
        *,
        job: str,
        tenant: str,
        cost: float,
        urgency: int = 0,
        kind: Hashable = None,
        exclusive: bool = False,  # run while no other batch runs
        on_start: Hook | None = None,  # awaited right before the batch runs
    ) -> Result:
        """Return the item's result, or raise its error."""
        ticket = Ticket(self._next_number, job, tenant, cost, urgency, kind, exclusive)
        self._next_number += 1
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting[ticket.number] = _Request(item, future, on_start)
        self._scheduler.add(ticket)
        if self._free_slots and not self._lingering:
            self._lingering = asyncio.get_running_loop().create_task(self._schedule_after_linger())
        try:
            return await future
        except asyncio.CancelledError:
            if self._waiting.pop(ticket.number, None):
                self._scheduler.discard(ticket)
                self.stats.dropped += 1
            raise

    async def _schedule_after_linger(self) -> None:
        try:
            await self._linger()
        finally:
            self._lingering = None
        self._schedule()

    def _schedule(self) -> None:
        """Give every free slot a batch."""
        # Divide the backlog by all workers, busy ones included: at the end of a recording the first free one would
        # otherwise take all that is left while the others run dry.
        sharers = self._workers
        while self._free_slots and not self._exclusive and (head := self._scheduler.head()):
            if head.exclusive and self._free_slots < self._slots:
                return  # wait until the running batches have ended
            self._exclusive = head.exclusive
            batch = self._scheduler.next_batch(limit=-(-len(self._scheduler) // sharers))
            sharers = max(sharers - 1, 1)
            self._free_slots -= 1
            self._start([self._waiting.pop(ticket.number) for ticket in batch])

    def _start(self, batch: list[_Request[Item, Result]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[_Request[Item, Result]]) -> None:
        try:
            await asyncio.gather(*(request.on_start() for request in batch if request.on_start))
            await self._run_or_halve(batch)
        finally:
            for request in batch:
                if not request.future.done():
                    request.future.set_exception(RuntimeError("the batch was given up"))
            self._free_slots += 1
            self._exclusive = False
            self._schedule()

    async def _run_or_halve(self, batch: list[_Request[Item, Result]]) -> None:
        """Run a batch; if it fails, run its halves: less memory at once, and a bad item fails alone."""
        self.stats.batches += 1
        self.stats.items += len(batch)
        self.stats.largest = max(self.stats.largest, len(batch))
        try:
            results = await self._run_batch([request.item for request in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - any error of the batch is isolated by halving
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._run_or_halve(batch[:middle])
                await self._run_or_halve(batch[middle:])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for request, result in answers:
            if not request.future.done():
                request.future.set_result(result)
