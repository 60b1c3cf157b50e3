"""Statistics of the service, over all replicas."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from serve_app.store.scripts import Scripts

TENANTS = 500  # looked at in one call
FRESH_S = 2.0  # /metrics may be read by anybody, as often as they like


@dataclass(frozen=True, slots=True)
class Stats:
    counters: Mapping[str, int]  # monotonic counts and histogram buckets, see `observe` in lua/lib.lua
    waiting: int  # jobs in the queues
    running: int  # jobs under a lease
    delayed: int  # jobs waiting for a retry
    webhooks: int  # deliveries not yet made
    queue_age_s: float = 0.0  # age of the oldest job at the head of a queue


class StatsReader:
    def __init__(self, scripts: Scripts) -> None:
        self._run = scripts.run
        self._lock = asyncio.Lock()
        self._latest: tuple[float, Stats] | None = None  # when, by the monotonic clock

    async def read(self) -> Stats:
        """Statistics of now."""
        stats, first = Stats({}, 0, 0, 0, 0), 0
        while True:
            tenants, waiting, webhooks, oldest, now, *whole = await self._run("stats", first, TENANTS)
            if whole:
                running, delayed, counters = whole
                pairs = zip(counters[::2], counters[1::2], strict=True)
                counts = {name.decode(): int(count) for name, count in pairs}
                stats = replace(stats, counters=counts, running=running, delayed=delayed)
            age_s = max((now - oldest) / 1000, 0.0) if oldest else 0.0
            stats = replace(
                stats,
                waiting=stats.waiting + waiting,
                webhooks=stats.webhooks + webhooks,
                queue_age_s=max(stats.queue_age_s, age_s),
            )
            first += tenants
            if tenants < TENANTS:
                return stats

    async def recent(self) -> Stats:
        """Statistics that are at most FRESH_S old."""
        # Read once for all that ask at the same time.
        async with self._lock:
            if self._latest is None or time.monotonic() - self._latest[0] > FRESH_S:
                stats = await self.read()
                self._latest = (time.monotonic(), stats)
            return self._latest[1]
