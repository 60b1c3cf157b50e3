"""Loop monitor: the longest time that the running event loop stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

PERIOD_S = 0.005


@dataclass(slots=True)
class LoopMonitor:
    """Result of a monitored stretch."""

    longest_s: float = 0.0

    async def watch(self) -> None:
        """Measure how late the loop wakes this task."""
        while True:
            due = time.monotonic() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self.longest_s = max(self.longest_s, time.monotonic() - due)


@asynccontextmanager
async def monitored_loop() -> AsyncIterator[LoopMonitor]:
    """Measure the stalls of the running loop."""
    monitor = LoopMonitor()
    task = asyncio.create_task(monitor.watch())
    await asyncio.sleep(2 * PERIOD_S)
    try:
        yield monitor
        await asyncio.sleep(2 * PERIOD_S)  # a stall at the end is noticed, too
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
