"""Many callers, one batch: who shares it, who leaves it, and whom a failure hurts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching.batcher import Batcher, Run
from batching.scheduler import Scheduler

GUARD_S = 10
"""What nobody waits for unless something hangs."""


@dataclass
class Running:
    """A batch that runs until the test ends it."""

    items: list[str]
    answer: asyncio.Future[list[str]]

    def finish(self) -> None:
        self.answer.set_result([item.upper() for item in self.items])

    def fail(self) -> None:
        self.answer.set_exception(RuntimeError("out of memory"))


class Lanes:
    """A `run` whose batches show themselves when they start, and end when they are told to."""

    def __init__(self) -> None:
        self._started: asyncio.Queue[Running] = asyncio.Queue()

    async def __call__(self, items: Sequence[str]) -> Sequence[str]:
        running = Running(list(items), asyncio.get_running_loop().create_future())
        self._started.put_nowait(running)
        return await running.answer

    @property
    def quiet(self) -> bool:
        """Whether no batch has started that the test has not seen."""
        return self._started.empty()

    async def next(self) -> Running:
        """The next batch that starts."""
        async with asyncio.timeout(GUARD_S):
            return await self._started.get()


def make(run: Run[str, str], max_items: int = 8, lanes: int = 1) -> Batcher[str, str]:
    return Batcher(run, Scheduler(max_items, 1000), lanes)


async def ask(batcher: Batcher[str, str], item: str, urgency: int = 0, kind: str = "") -> str:
    async with asyncio.timeout(GUARD_S):
        return await batcher.submit(item, job="job", tenant="tenant", seconds=1, urgency=urgency, kind=kind)


async def send(batcher: Batcher[str, str], items: str, urgency: int = 0, kind: str = "") -> list[asyncio.Task[str]]:
    """Submit each letter; returns once all of them wait or run."""
    tasks = [asyncio.create_task(ask(batcher, item, urgency, kind)) for item in items]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_items_submitted_in_one_turn_share_a_batch_and_get_their_own_results() -> None:
    lanes = Lanes()
    tasks = await send(make(lanes), "abc")
    running = await lanes.next()
    assert running.items == ["a", "b", "c"]
    running.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_what_comes_while_a_batch_runs_waits_and_goes_together() -> None:
    lanes = Lanes()
    batcher = make(lanes)
    tasks = await send(batcher, "a")
    first = await lanes.next()
    tasks += await send(batcher, "b")
    tasks += await send(batcher, "c")
    assert lanes.quiet
    first.finish()
    second = await lanes.next()
    assert second.items == ["b", "c"]
    second.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_an_urgent_item_overtakes_those_that_wait() -> None:
    lanes = Lanes()
    batcher = make(lanes, max_items=1)
    tasks = await send(batcher, "a", urgency=1)
    running = await lanes.next()
    tasks += await send(batcher, "bc", urgency=1) + await send(batcher, "u", urgency=0)
    for item in "ubc":
        running.finish()
        running = await lanes.next()
        assert running.items == [item]
    running.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "U"]


@pytest.mark.parametrize(("lanes", "batches"), [(2, ["ab", "cd"]), (3, ["ab", "c", "d"]), (6, ["a", "b", "c", "d"])])
async def test_idle_lanes_share_what_waits(lanes: int, batches: list[str]) -> None:
    shown = Lanes()
    tasks = await send(make(shown, lanes=lanes), "abcd")
    running = [await shown.next() for _ in batches]
    assert ["".join(batch.items) for batch in running] == batches
    for batch in reversed(running):
        batch.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C", "D"]


async def test_a_lane_leaves_to_the_busy_one_its_share() -> None:
    shown = Lanes()
    batcher = make(shown, lanes=2)
    tasks = await send(batcher, "ab")
    first, second = await shown.next(), await shown.next()
    tasks += await send(batcher, "cdefg")
    second.finish()
    third = await shown.next()
    assert third.items == ["c", "d", "e"]
    first.finish()
    fourth = await shown.next()
    assert fourth.items == ["f"]
    third.finish()
    fifth = await shown.next()
    assert fifth.items == ["g"]
    fourth.finish()
    fifth.finish()
    assert await asyncio.gather(*tasks) == list("ABCDEFG")


async def test_a_batch_ahead_takes_none_of_what_the_one_that_runs_can_take() -> None:
    shown = Lanes()
    batcher = Batcher(shown, Scheduler(3, 1000), lanes=1, ahead=1)
    tasks = await send(batcher, "abcde")
    first, second = await shown.next(), await shown.next()
    assert (first.items, second.items) == (["a", "b", "c"], ["d", "e"])
    for batch in (first, second):
        batch.finish()
    assert await asyncio.gather(*tasks) == list("ABCDE")


async def test_who_finds_a_lane_idle_waits_for_those_that_come_with_it() -> None:
    shown, settled = Lanes(), asyncio.Event()

    async def settle() -> None:
        await settled.wait()

    batcher = Batcher(shown, Scheduler(8, 1000), settle=settle)
    tasks = await send(batcher, "a") + await send(batcher, "b")
    gone = await send(batcher, "x")
    gone[0].cancel()
    assert shown.quiet
    settled.set()
    running = await shown.next()
    assert running.items == ["a", "b"]
    settled.clear()
    tasks += await send(batcher, "c")
    running.finish()
    # Whoever came while the lane was busy has waited long enough.
    last = await shown.next()
    assert last.items == ["c"]
    last.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_no_more_batches_run_than_there_are_lanes() -> None:
    lanes = Lanes()
    batcher = make(lanes, max_items=1, lanes=2)
    tasks = await send(batcher, "abc")
    first, second = await lanes.next(), await lanes.next()
    assert lanes.quiet
    second.finish()
    third = await lanes.next()
    assert third.items == ["c"]
    first.finish()
    third.finish()
    assert await asyncio.gather(*tasks) == ["A", "B", "C"]


async def test_two_kinds_do_not_share_a_batch() -> None:
    lanes = Lanes()
    batcher = make(lanes)
    tasks = await send(batcher, "x")
    running = await lanes.next()
    tasks += await send(batcher, "ab", kind="cold") + await send(batcher, "c", kind="warm")
    for items in (["a", "b"], ["c"]):
        running.finish()
        running = await lanes.next()
        assert running.items == items
    running.finish()
    assert await asyncio.gather(*tasks) == ["X", "A", "B", "C"]


async def test_an_item_whose_caller_leaves_while_it_waits_is_never_run() -> None:
    lanes = Lanes()
    batcher = make(lanes)
    (first,) = await send(batcher, "a")
    running = await lanes.next()
    leaving, staying = await send(batcher, "bc")
    leaving.cancel()
    await asyncio.wait([leaving])
    running.finish()
    following = await lanes.next()
    following.finish()
    assert following.items == ["c"]
    assert [await first, await staying] == ["A", "C"]
    assert leaving.cancelled()
    assert (batcher.counts.dropped, batcher.counts.items) == (1, 2)


async def test_a_caller_who_leaves_while_a_batch_runs_hurts_no_other() -> None:
    lanes = Lanes()
    batcher = make(lanes)
    first, leaving, last = await send(batcher, "abc")
    running = await lanes.next()
    leaving.cancel()
    await asyncio.wait([leaving])
    running.finish()
    assert [await first, await last] == ["A", "C"]
    assert leaving.cancelled()
    assert batcher.counts.dropped == 0


async def test_a_caller_who_leaves_a_batch_that_then_fails_hurts_no_other() -> None:
    lanes = Lanes()
    tasks = await send(make(lanes), "ab")
    running = await lanes.next()
    tasks[0].cancel()
    await asyncio.wait(tasks[:1])
    running.fail()
    while (half := await lanes.next()).items != ["b"]:
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
    assert batcher.counts.largest == 7


@settings(deadline=None, max_examples=50)
@given(st.text("abX", min_size=1, max_size=20), st.integers(1, 8), st.integers(1, 3))
async def test_a_bad_item_fails_alone(items: str, max_items: int, lanes: int) -> None:
    async def run(items: Sequence[str]) -> Sequence[str]:
        if "X" in items:
            raise ValueError("X")
        return [item.upper() for item in items]

    answers = await asyncio.gather(*await send(make(run, max_items, lanes), items), return_exceptions=True)
    assert [answer if isinstance(answer, str) else type(answer) for answer in answers] == [
        ValueError if item == "X" else item.upper() for item in items
    ]


async def test_an_exception_that_is_returned_is_a_result() -> None:
    async def run(items: Sequence[str]) -> Sequence[Exception]:
        return [ValueError(item) for item in items]

    batcher: Batcher[str, Exception] = Batcher(run, Scheduler(8, 1000))
    assert str(await batcher.submit("X", job="job", tenant="tenant", seconds=1)) == "X"


async def test_counts_tell_what_was_run() -> None:
    lanes = Lanes()
    batcher = make(lanes, max_items=3)
    tasks = await send(batcher, "abcde")
    for _ in range(2):
        (await lanes.next()).finish()
    await asyncio.gather(*tasks)
    counts = batcher.counts
    assert (counts.batches, counts.items, counts.largest, counts.dropped) == (2, 5, 3, 0)


async def too_few(items: Sequence[str]) -> Sequence[str]:
    return items[:-1]


async def cancelled(items: Sequence[str]) -> Sequence[str]:
    raise asyncio.CancelledError


@pytest.mark.parametrize("run", [too_few, cancelled])
async def test_nobody_waits_for_ever(run: Run[str, str]) -> None:
    tasks = await send(make(run), "abc")
    _, waiting = await asyncio.wait(tasks, timeout=0.2)
    for task in waiting:
        task.cancel()
    assert not waiting


async def test_one_that_is_alone_runs_while_nothing_else_does() -> None:
    lanes = Lanes()
    batcher = make(lanes, lanes=2)
    first = await send(batcher, "a")
    one = await lanes.next()
    alone = asyncio.create_task(batcher.submit("x", job="job", tenant="tenant", seconds=1, alone=True))
    rest = await send(batcher, "bc")
    assert lanes.quiet, "a lane is free, but what runs goes to its end first"
    one.finish()
    two = await lanes.next()
    assert two.items == ["x"]
    for _ in range(3):
        await asyncio.sleep(0)
    assert lanes.quiet
    two.finish()
    for _ in range(2):
        (await lanes.next()).finish()
    assert await asyncio.gather(*first, alone, *rest) == ["A", "X", "B", "C"]


async def test_a_turn_is_told_before_it_is_run() -> None:
    lanes = Lanes()
    batcher = make(lanes)
    turn = asyncio.Event()

    async def begun() -> None:
        assert lanes.quiet
        turn.set()

    first = await send(batcher, "a")
    running = await lanes.next()
    second = asyncio.create_task(batcher.submit("b", job="job", tenant="tenant", seconds=1, begun=begun))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not turn.is_set()
    running.finish()
    (await lanes.next()).finish()
    assert turn.is_set()
    assert await asyncio.gather(*first, second) == ["A", "B"]
