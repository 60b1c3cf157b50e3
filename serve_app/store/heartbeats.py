"""Heartbeats of Runners, and a probe write."""

# Keys: `runners`, workers by the time of their last heartbeat; `probe`, written to see whether writes are accepted.

from __future__ import annotations

from redis.asyncio import Redis

from serve_app.store.connection import execute
from serve_app.store.scripts import key

PROBE_REPLY_S = 3.0
BEAT_S = 5.0  # between two heartbeats
SILENT_S = 4 * BEAT_S  # a worker without a heartbeat for so long is not alive


class Heartbeats:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def probe(self) -> None:
        """Write a key. Raises StoreUnavailable."""
        await execute(self._redis.set(key("probe"), 1, ex=60), PROBE_REPLY_S)

    async def beat(self, worker: str) -> None:
        """Record that a Runner lives."""
        now = await self._now()
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zadd(key("runners"), {worker: now})
            pipe.zremrangebyscore(key("runners"), "-inf", now - SILENT_S)
            await execute(pipe.execute())

    async def leave(self, worker: str) -> None:
        """Forget a Runner that stops."""
        await execute(self._redis.zrem(key("runners"), worker))

    async def runners_alive(self) -> int:
        return int(await execute(self._redis.zcount(key("runners"), await self._now() - SILENT_S, "+inf"), PROBE_REPLY_S))

    async def _now(self) -> float:
        # The server's clock: those of the nodes may differ.
        seconds, micros = await execute(self._redis.time(), PROBE_REPLY_S)
        return float(seconds + micros / 1e6)
