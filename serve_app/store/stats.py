"""Statistics of the service, over all replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from serve_app.store.connection import execute
from serve_app.store.job_store import JobStore
from serve_app.store.scripts import key


@dataclass(frozen=True, slots=True)
class Stats:
    counters: Mapping[str, int]  # monotonic counts and histogram buckets, see `observe` in lua/lib.lua
    waiting: int  # jobs in the queues
    running: int  # jobs under a lease
    delayed: int  # jobs waiting for a retry
    webhooks: int  # deliveries not yet made
    queue_age_s: float = 0.0  # age of the oldest job at the head of a queue


class StatsReader:
    def __init__(self, redis: Redis, jobs: JobStore) -> None:
        self._redis = redis
        self._jobs = jobs

    async def read(self) -> Stats:
        tenants: Any = await execute(self._redis.zrange(key("tenants"), 0, -1))
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(key("metrics"))
            pipe.zcard(key("leases"))
            pipe.zcard(key("delayed"))
            pipe.zcard(key("webhooks"))
            for tenant in tenants:
                pipe.zcard(key(f"wait:{tenant.decode()}"))
            counters, running, delayed, webhooks, *waiting = await execute(pipe.execute())
        counts = {name.decode(): int(count) for name, count in counters.items()}
        return Stats(counts, sum(waiting), running, delayed, webhooks, await self._queue_age_s(tenants))

    async def _queue_age_s(self, tenants: Sequence[bytes]) -> float:
        async with self._redis.pipeline(transaction=False) as pipe:
            for tenant in tenants:
                pipe.zrange(key(f"wait:{tenant.decode()}"), 0, 0)
            heads = [ids[0].decode() for ids in await execute(pipe.execute()) if ids]
        created = [job.created_at for job in await self._jobs.get_many(heads) if job]
        seconds, micros = await execute(self._redis.time())
        return max((seconds + micros / 1e6 - at for at in created), default=0.0)
