"""Background loops."""

from __future__ import annotations

import asyncio

import pytest

from serve_app.errors import StoreUnavailable
from serve_app.runner.loops import every


async def test_a_loop_survives_outages_and_errors_and_logs_both(caplog: pytest.LogCaptureFixture) -> None:
    outcomes = iter([StoreUnavailable("gone"), ValueError("a bug"), None])
    done = asyncio.Event()

    async def step() -> None:
        outcome = next(outcomes, None)
        if outcome:
            raise outcome
        done.set()

    loop = asyncio.create_task(every(0.01, step, "sweep"))
    async with asyncio.timeout(10):
        await done.wait()
    loop.cancel()
    await asyncio.wait([loop])
    assert loop.cancelled()
    assert caplog.messages == ["sweep: Redis unavailable, retrying: gone", "sweep failed, retrying"]
    assert "ValueError: a bug" in caplog.text


async def test_a_loop_that_is_woken_during_or_after_a_step_runs_at_once() -> None:
    wake, steps = asyncio.Event(), asyncio.Queue[int]()
    numbers = iter(range(10))

    async def step() -> None:
        number = next(numbers)
        steps.put_nowait(number)
        if number == 0:
            wake.set()

    loop = asyncio.create_task(every(3600, step, "claim", wake))
    async with asyncio.timeout(10):
        assert [await steps.get(), await steps.get()] == [0, 1]
        wake.set()
        assert await steps.get() == 2
    loop.cancel()
    await asyncio.wait([loop])
