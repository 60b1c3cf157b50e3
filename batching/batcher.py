"""Many callers, one batch: `submit` an item, await its result.

A batch is formed as late as possible, when a lane is free to run it: until then its items may still regroup, be
overtaken by an urgent one, or be dropped at no cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from batching.scheduler import Scheduler, Ticket

Item = TypeVar("Item")
Result = TypeVar("Result")
Run = Callable[[Sequence[Item]], Awaitable[Sequence[Result]]]
Begun = Callable[[], Awaitable[None]]
Settle = Callable[[], Awaitable[None]]


async def this_turn() -> None:
    """Wait for whoever submits in this same turn of the loop."""
    await asyncio.sleep(0)


@dataclass(slots=True)
class Counts:
    """What a batcher has done so far: batches run, items in them, the largest batch, items dropped while waiting."""

    batches: int = 0
    items: int = 0
    largest: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Pending(Generic[Item, Result]):
    item: Item
    future: asyncio.Future[Result]
    begun: Begun | None


class Batcher(Generic[Item, Result]):
    """Runs batches of what `scheduler` chooses on `lanes` lanes at once, and hands out `ahead` more, so that one is ready
    when a lane is free; `run` takes items and gives a result each. What finds a lane idle goes once `settle` has returned:
    others that come with it may share its batch."""

    def __init__(
        self,
        run: Run[Item, Result],
        scheduler: Scheduler,
        lanes: int = 1,
        ahead: int = 0,
        settle: Settle = this_turn,
    ) -> None:
        self._run = run
        self._settle = settle
        self._settling: asyncio.Task[None] | None = None
        self._scheduler = scheduler
        self._workers = lanes
        self._lanes = self._idle = lanes + ahead
        self._alone = False
        self._pending: dict[int, _Pending[Item, Result]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._number = 0
        self.counts = Counts()

    async def submit(
        self,
        item: Item,
        *,
        job: str,
        tenant: str,
        seconds: float,
        urgency: int = 0,
        kind: Hashable = None,
        alone: bool = False,
        begun: Begun | None = None,
    ) -> Result:
        """Wait for the item's turn and give its result, or raise what `run` raised for it. A caller that is cancelled
        takes its item along, at no cost if that still waits. One that is `alone` runs while nothing else does; `begun` is
        awaited when its turn has come, before it runs."""
        ticket = Ticket(self._number, job, tenant, seconds, urgency, kind, alone)
        self._number += 1
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._pending[ticket.number] = _Pending(item, future, begun)
        self._scheduler.add(ticket)
        if self._idle and not self._settling:
            self._settling = asyncio.get_running_loop().create_task(self._fill_soon())
        try:
            return await future
        except asyncio.CancelledError:
            if self._pending.pop(ticket.number, None):
                self._scheduler.discard(ticket)
                self.counts.dropped += 1
            raise

    async def _fill_soon(self) -> None:
        try:
            await self._settle()
        finally:
            self._settling = None
        self._fill()

    def _fill(self) -> None:
        """Give every idle lane a batch. What waits is shared out among all that work, also with those that are busy now: at
        the end of a recording one would have the rest of it otherwise, and the others nothing."""
        sharing = self._workers
        while self._idle and not self._alone and (head := self._scheduler.head()):
            if head.alone and self._idle < self._lanes:
                return  # what runs goes to its end first
            self._alone = head.alone
            tickets = self._scheduler.next_batch(-(-len(self._scheduler) // sharing))
            sharing = max(sharing - 1, 1)
            self._idle -= 1
            task = asyncio.get_running_loop().create_task(self._serve([self._pending.pop(t.number) for t in tickets]))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _serve(self, batch: list[_Pending[Item, Result]]) -> None:
        try:
            await asyncio.gather(*(one.begun() for one in batch if one.begun))
            await self._attempt(batch)
        finally:
            for one in batch:
                if not one.future.done():
                    one.future.set_exception(RuntimeError("the batch was given up"))
            self._idle += 1
            self._alone = False
            self._fill()

    async def _attempt(self, batch: list[_Pending[Item, Result]]) -> None:
        """Run a batch; if it fails, run its halves: out of memory needs less at once, and a bad item must hurt no
        other."""
        self.counts.batches += 1
        self.counts.items += len(batch)
        self.counts.largest = max(self.counts.largest, len(batch))
        try:
            results = await self._run([one.item for one in batch])
            answers = list(zip(batch, results, strict=True))
        except Exception as error:  # noqa: BLE001 - whatever a batch raises, its halves are tried
            if len(batch) > 1:
                middle = len(batch) // 2
                await self._attempt(batch[:middle])
                await self._attempt(batch[middle:])
            elif not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        for one, result in answers:
            if not one.future.done():
                one.future.set_result(result)
