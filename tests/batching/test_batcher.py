"""Dynamic batching: sharing, cancellation, and failures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching.batcher import Batcher, RunBatch
from batching.scheduler import Scheduler

GUARD_S = 10  # timeout of a test that hangs


@dataclass
class Running:
    """A batch that runs until the test ends it."""

    items: list[str]
    results: asyncio.Future[list[str]]

    def finish(self) -> None:
        self.results.set_result([item.upper() for item in self.items])

    def fail(self) -> None:
        self.results.set_exception(RuntimeError("out of memory"))


class Workers:
    """A `run_batch` whose batches are visible to the test when they start, and end at its command."""

    def __init__(self) -> None:
        self._started: asyncio.Queue[Running] = asyncio.Queue()

    async def __call__(self, items: Sequence[str]) -> Sequence[str]:
        running = Running(list(items), asyncio.get_running_loop().create_future())
        self._started.put_nowait(running)
        return await running.results

    @property
    def idle(self) -> bool:
        """Whether the test has seen every batch that started."""
        return self._started.empty()

    async def next(self) -> Running:
        """The next batch that starts."""
        async with asyncio.timeout(GUARD_S):
            return await self._started.get()


def make(run: RunBatch[str, str], max_items: int = 8, workers: int = 1) -> Batcher[str, str]:
    return Batcher(run, Scheduler(max_items, 1000), workers)


async def submit(batcher: Batcher[str, str], item: str, urgency: int = 0, kind: str = "") -> str:
    async with asyncio.timeout(GUARD_S):
        return await batcher.submit(item, job="job", tenant="tenant", cost=1, urgency=urgency, kind=kind)


async def send(batcher: Batcher[str, str], items: str, urgency: int = 0, kind: str = "") -> list[asyncio.Task[str]]:
    """Submit each letter; return once all of them wait or run."""
    tasks = [asyncio.create_task(submit(batcher, item, urgency, kind)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_items_submitted_in_one_turn_share_a_batch_and_get_their_own_results() -> None:
    workers = Workers()
    tasks = await send(make(workers), "abc")
    running = await workers.next()
    assert running.items == ["a", "b", "c"]
    running.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_items_submitted_while_a_batch_runs_share_the_next() -> None:
    workers = Workers()
    batcher = make(workers)
    tasks = await send(batcher, "a")
    first = await workers.next()
    tasks += await send(batcher, "b")
    tasks += await send(batcher, "c")
    assert workers.idle
    first.finish()
    second = await workers.next()
    assert second.items == ["b", "c"]
    second.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_an_urgent_item_overtakes_waiting_ones() -> None:
    workers = Workers()
    batcher = make(workers, max_items=1)
    tasks = await send(batcher, "a", urgency=1)
    running = await workers.next()
    tasks += await send(batcher, "bc", urgency=1) + await send(batcher, "u", urgency=0)
    for item in "ubc":
        running.finish()
        running = await workers.next()
        assert running.items == [item]
    running.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "U"]


@pytest.mark.parametrize(("count", "batches"), [(2, ["ab", "cd"]), (3, ["ab", "c", "d"]), (6, ["a", "b", "c", "d"])])
async def test_idle_workers_share_the_backlog(count: int, batches: list[str]) -> None:
    workers = Workers()
    tasks = await send(make(workers, workers=count), "abcd")
    running = [await workers.next() for _ in batches]
    assert ["".join(batch.items) for batch in running] == batches
    for batch in reversed(running):
        batch.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]


async def test_a_free_worker_leaves_a_share_of_the_backlog_to_a_busy_one() -> None:
    workers = Workers()
    batcher = make(workers, workers=2)
    tasks = await send(batcher, "ab")
    first, second = await workers.next(), await workers.next()
    tasks += await send(batcher, "cdefg")
    second.finish()
    third = await workers.next()
    assert third.items == ["c", "d", "e"]
    first.finish()
    fourth = await workers.next()
    assert fourth.items == ["f"]
    third.finish()
    fifth = await workers.next()
    assert fifth.items == ["g"]
    fourth.finish()
    fifth.finish()
    assert await asyncio.gather(*tasks) == list("ABCDEFG")


async def test_a_prefetched_batch_takes_no_items_that_fit_the_running_one() -> None:
    workers = Workers()
    batcher = Batcher(workers, Scheduler(3, 1000), workers=1, prefetch=1)
    tasks = await send(batcher, "abcde")
    first, second = await workers.next(), await workers.next()
    assert (first.items, second.items) == (["a", "b", "c"], ["d", "e"])
    for batch in (first, second):
        batch.finish()
    assert await asyncio.gather(*tasks) == list("ABCDE")


async def test_an_item_that_finds_a_free_worker_lingers_for_others() -> None:
    workers, lingered = Workers(), asyncio.Event()

    async def linger() -> None:
        await lingered.wait()

    batcher = Batcher(workers, Scheduler(8, 1000), linger=linger)
    tasks = await send(batcher, "a") + await send(batcher, "b")
    (cancelled,) = await send(batcher, "x")
    cancelled.cancel()
    assert workers.idle
    lingered.set()
    running = await workers.next()
    assert running.items == ["a", "b"]
    lingered.clear()
    tasks += await send(batcher, "c")
    running.finish()
    # An item that came while the worker was busy has waited long enough.
    last = await workers.next()
    assert last.items == ["c"]
    last.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_no_more_batches_run_than_there_are_workers() -> None:
    workers = Workers()
    batcher = make(workers, max_items=1, workers=2)
    tasks = await send(batcher, "abc")
    first, second = await workers.next(), await workers.next()
    assert workers.idle
    second.finish()
    third = await workers.next()
    assert third.items == ["c"]
    first.finish()
    third.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_two_kinds_do_not_share_a_batch() -> None:
    workers = Workers()
    batcher = make(workers)
    tasks = await send(batcher, "x")
    running = await workers.next()
    tasks += await send(batcher, "ab", kind="cold") + await send(batcher, "c", kind="warm")
    for items in (["a", "b"], ["c"]):
        running.finish()
        running = await workers.next()
        assert running.items == items
    running.finish()
    assert await asyncio.gather(*tasks) == ["X", "A", "B", "C"]


async def test_a_waiting_item_whose_caller_is_cancelled_is_never_run() -> None:
    workers = Workers()
    batcher = make(workers)
    (first,) = await send(batcher, "a")
    running = await workers.next()
    leaving, staying = await send(batcher, "bc")
    leaving.cancel()
    await asyncio.wait([leaving])
    running.finish()
    following = await workers.next()
    following.finish()
    assert following.items == ["c"]
    assert [await first, await staying] == ["A", "C"]
    assert leaving.cancelled()
    assert (batcher.stats.dropped, batcher.stats.items) == (1, 2)


async def test_a_caller_cancelled_while_a_batch_runs_affects_no_other() -> None:
    workers = Workers()
    batcher = make(workers)
    first, leaving, last = await send(batcher, "abc")
    running = await workers.next()
    leaving.cancel()
    await asyncio.wait([leaving])
    running.finish()
    assert [await first, await last] == ["A", "C"]
    assert leaving.cancelled()
    assert batcher.stats.dropped == 0


async def test_a_caller_cancelled_in_a_batch_that_fails_affects_no_other() -> None:
    workers = Workers()
    tasks = await send(make(workers), "ab")
    running = await workers.next()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    running.fail()
    while (half := await workers.next()).items != ["b"]:
        half.fail()
    half.finish()
    assert await tasks[1] == "B"


async def test_a_batch_too_large_for_memory_is_halved_until_it_fits() -> None:
    async def run(items: Sequence[str]) -> Sequence[str]:
        if len(items) > 2:
            raise MemoryError
        return [item.upper() for item in items]

    batcher = make(run)
    assert await asyncio.gather(*await send(batcher, "abcdefg")) == list("ABCDEFG")
    assert batcher.stats.largest == 7


@settings(deadline=None, max_examples=50)
@given(st.text("abX", min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 3))
async def test_a_bad_item_fails_alone(items: str, max_items: int, workers: int) -> None:
    async def run(items: Sequence[str]) -> Sequence[str]:
        if "X" in items:
            raise ValueError("X")
        return [item.upper() for item in items]

    answers = await asyncio.gather(*await send(make(run, max_items, workers), items), return_exceptions=True)
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        ValueError if item == "X" else item.upper() for item in items
    ]


async def test_an_exception_that_is_returned_is_a_result() -> None:
    async def run(items: Sequence[str]) -> Sequence[Exception]:
        return [ValueError(item) for item in items]

    batcher: Batcher[str, Exception] = Batcher(run, Scheduler(8, 1000))
    assert str(await batcher.submit("X", job="job", tenant="tenant", cost=1)) == "X"


async def test_stats_count_batches_and_items() -> None:
    workers = Workers()
    batcher = make(workers, max_items=3)
    tasks = await send(batcher, "abcde")
    for _ in range(2):
        (await workers.next()).finish()
    await asyncio.gather(*tasks)
    stats = batcher.stats
    assert (stats.batches, stats.items, stats.largest, stats.dropped) == (2, 5, 3, 0)


async def too_few(items: Sequence[str]) -> Sequence[str]:
    return items[:-1]


async def cancelled(items: Sequence[str]) -> Sequence[str]:
    raise asyncio.CancelledError


@pytest.mark.parametrize("run", [too_few, cancelled])
async def test_no_caller_waits_for_ever(run: RunBatch[str, str]) -> None:
    tasks = await send(make(run), "abc")
    _, waiting = await asyncio.wait(tasks, timeout=0.2)
    for task in waiting:
        task.cancel()
    assert not waiting


async def test_an_exclusive_item_runs_while_no_other_batch_does() -> None:
    workers = Workers()
    batcher = make(workers, workers=2)
    first = await send(batcher, "a")
    second = await workers.next()
    exclusive = asyncio.create_task(batcher.submit("x", job="job", tenant="tenant", cost=1, exclusive=True))
    rest = await send(batcher, "bc")
    assert workers.idle, "a worker is free, but the running batch ends first"
    second.finish()
    third = await workers.next()
    assert third.items == ["x"]
    for _ in range(3):
        await asyncio.sleep(0)
    assert workers.idle
    third.finish()
    for _ in range(2):
        (await workers.next()).finish()
    assert await asyncio.gather(*first, exclusive, *rest) == ["A", "X", "B", "C"]


async def test_on_start_is_awaited_before_the_batch_runs() -> None:
    workers = Workers()
    batcher = make(workers)
    started = asyncio.Event()

    async def on_start() -> None:
        assert workers.idle
        started.set()

    first = await send(batcher, "a")
    running = await workers.next()
    second = asyncio.create_task(batcher.submit("b", job="job", tenant="tenant", cost=1, on_start=on_start))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not started.is_set()
    running.finish()
    (await workers.next()).finish()
    assert started.is_set()
    assert await asyncio.gather(*first, second) == ["A", "B"]
