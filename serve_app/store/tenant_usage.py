"""Rate limit, monthly audio and queue pace of tenants."""

from __future__ import annotations

from redis.asyncio import Redis

from serve_app.store.connection import execute
from serve_app.store.scripts import Scripts, key


class TenantUsage:
    def __init__(self, redis: Redis, scripts: Scripts) -> None:
        self._redis = redis
        self._scripts = scripts

    async def take_token(self, tenant: str, per_minute: int) -> float:
        """Take a token from the tenant's bucket. Returns 0, or the seconds until there is one."""
        return int(await self._scripts.run("rate_limit_take", tenant, per_minute)) / 1000

    async def audio_s(self, tenant: str) -> float:
        """Seconds of audio transcribed this calendar month (UTC)."""
        return (await self.minutes(tenant))[0]

    async def minutes(self, tenant: str) -> tuple[float, float]:
        """Seconds of audio: transcribed this month, and reserved by jobs under way."""
        used_ms, held_ms = await self._scripts.run("minutes_used", tenant)
        return int(used_ms) / 1000, int(held_ms) / 1000

    async def pace_s(self, tenant: str) -> float | None:
        """Mean seconds between two claims; None if not measured yet."""
        pace_ms = await execute(self._redis.hget(key("pace"), tenant))
        return None if pace_ms is None else float(pace_ms) / 1000

    async def waiting(self, tenant: str) -> int:
        """Number of queued jobs."""
        return int(await execute(self._redis.zcard(key(f"wait:{tenant}"))))
