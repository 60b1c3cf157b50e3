"""Turns shared by tenants."""

from __future__ import annotations

import asyncio

import pytest

from deployments.transcoding.fair_turns import FairTurns


async def settle() -> None:
    """Let all ready tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_tenants_take_turns_whatever_the_number_of_their_waiters() -> None:
    turns, order = FairTurns(1), list[str]()

    async def work(tenant: str) -> None:
        async with turns.turn(tenant):
            order.append(tenant)
            await asyncio.sleep(0)

    async with turns.turn("first"):
        tasks = [asyncio.create_task(work(tenant)) for tenant in ("busy", "busy", "busy", "quiet", "quiet", "other")]
        await settle()
    await asyncio.gather(*tasks)
    assert order == ["busy", "quiet", "other", "busy", "quiet", "busy"]


async def test_no_more_than_the_limit_run_at_once() -> None:
    turns, running, most = FairTurns(3), 0, 0

    async def work(number: int) -> None:
        nonlocal running, most
        async with turns.turn(str(number % 4)):
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1

    await asyncio.gather(*(work(number) for number in range(40)))
    assert most == 3


async def test_a_cancelled_waiter_and_one_whose_turn_had_come_lose_no_turn() -> None:
    turns = FairTurns(1)

    async def work() -> None:
        async with turns.turn("a"):
            pass

    async with turns.turn("a"):
        waiting, due = asyncio.create_task(work()), asyncio.create_task(work())
        await settle()
        waiting.cancel()
        await settle()
    due.cancel()  # its turn has been granted, but it has not run since
    with pytest.raises(asyncio.CancelledError):
        await due
    await asyncio.wait_for(work(), 5)
    assert not turns._waiting


async def test_waiters_that_are_cancelled_together_with_the_holder_lose_no_turn() -> None:
    turns, working = FairTurns(1), asyncio.Event()

    async def work() -> None:
        async with turns.turn("a"):
            working.set()
            await asyncio.sleep(3600)

    tasks = [asyncio.create_task(work()) for _ in range(3)]
    await working.wait()
    await settle()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    async with asyncio.timeout(5), turns.turn("b"):
        assert not turns._waiting
