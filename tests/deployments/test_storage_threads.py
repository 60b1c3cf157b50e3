"""StorageThreads: blocking calls for coroutines; a cancellation interrupts none in the middle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager

import pytest

from deployments.storage.artifacts import Artifacts
from deployments.storage.threads import THREADS, StorageThreads

KEY = "jobs/j1/source"


class Step:
    """Blocking step that a test holds up."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.done = False

    def __call__(self) -> None:
        self.begun.set()
        self.go_on.wait()
        self.done = True


@contextmanager
def steps(enter: Step, leave: Step, log: list[str]) -> Iterator[str]:
    """Blocking context that logs its way."""
    enter()
    log.append("entered")
    try:
        yield "value"
    except BaseException as error:
        log.append(type(error).__name__)
        raise
    finally:
        leave()
        log.append("left")


async def begun(step: Step) -> None:
    await asyncio.to_thread(step.begun.wait)


def open_steps() -> tuple[Step, Step]:
    """Steps that hold up nothing."""
    enter, leave = Step(), Step()
    enter.go_on.set()
    leave.go_on.set()
    return enter, leave


async def test_calls_run_outside_the_loop_and_no_more_than_the_bound_at_once() -> None:
    threads, names = StorageThreads(), set[str]()

    def work() -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        names.add(threading.current_thread().name)

    await asyncio.gather(*(threads.run(work) for _ in range(5 * THREADS)))
    assert 0 < len(names) <= THREADS


async def test_slow_storage_takes_no_thread_of_the_default_executor() -> None:
    threads, step = StorageThreads(), Step()
    waiting = [asyncio.create_task(threads.run(step)) for _ in range(4 * THREADS)]
    await begun(step)
    assert await asyncio.to_thread(lambda: "name resolved") == "name resolved"
    step.go_on.set()
    await asyncio.gather(*waiting)


async def test_a_context_that_is_cancelled_while_it_is_entered_is_left() -> None:
    (enter, leave), log = open_steps(), list[str]()
    enter.go_on.clear()

    async def work() -> None:
        async with StorageThreads().entered(steps(enter, leave, log)):
            log.append("body")

    task = asyncio.create_task(work())
    await begun(enter)
    task.cancel()
    await asyncio.sleep(0)
    enter.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["entered", "CancelledError", "left"]


async def test_a_context_is_left_whole_though_its_caller_is_cancelled() -> None:
    (enter, leave), log = open_steps(), list[str]()
    leave.go_on.clear()

    async def work() -> None:
        async with StorageThreads().entered(steps(enter, leave, log)) as value:
            assert value == "value"

    task = asyncio.create_task(work())
    await begun(leave)
    task.cancel()
    await asyncio.sleep(0)
    leave.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leave.done
    assert log == ["entered", "left"]


async def test_an_error_of_the_body_reaches_the_context_and_the_caller() -> None:
    (enter, leave), log = open_steps(), list[str]()
    with pytest.raises(ZeroDivisionError):
        async with StorageThreads().entered(steps(enter, leave, log)):
            raise ZeroDivisionError
    assert log == ["entered", "ZeroDivisionError", "left"]


async def test_a_write_that_is_cancelled_leaves_nothing(artifacts: Artifacts) -> None:
    step = Step()

    async def upload() -> None:
        async with artifacts.threads.entered(artifacts.writer(KEY)) as writer:

            def write() -> None:
                step()
                writer.write(b"sound")

            await artifacts.threads.run(write)

    task = asyncio.create_task(upload())
    await begun(step)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    step.go_on.set()
    await artifacts.threads.run(lambda: None)
    assert artifacts.keys("jobs") == artifacts.keys("parts") == []


async def test_a_generator_is_closed_in_a_thread_once_its_reader_leaves() -> None:
    closed: list[str] = []

    def values() -> Iterator[int]:
        try:
            yield from range(1, 100)
        finally:
            closed.append(threading.current_thread().name)

    async with aclosing(StorageThreads().iterate(values())) as numbers:
        assert [await anext(numbers), await anext(numbers)] == [1, 2]
    assert [name.startswith("storage") for name in closed] == [True]


async def test_a_reader_that_is_cancelled_waits_for_the_call_under_way() -> None:
    step, closed = Step(), list[bool]()

    def values() -> Iterator[int]:
        try:
            step()
            yield 1
        finally:
            closed.append(step.done)

    async def read() -> None:
        async with aclosing(StorageThreads().iterate(values())) as numbers:
            async for _ in numbers:
                pass

    task = asyncio.create_task(read())
    await begun(step)
    task.cancel()
    await asyncio.sleep(0)
    step.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
