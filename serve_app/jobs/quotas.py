"""What a tenant may ask for: requests a minute, and minutes of audio a month. Counted in Redis, for all replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from serve_app.errors import RequestError
from serve_app.models.principal import Principal
from serve_app.store.redis_store import Store


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Of every tenant; 0 for none."""

    requests_per_minute: int = 0
    minutes_per_month: float = 0.0


class Quotas:
    """Refuses what is too much."""

    def __init__(self, store: Store, limits: TenantLimits) -> None:
        self._store = store
        self._limits = limits

    async def request(self, who: Principal) -> None:
        """Count a request. EdgeError `rate_limited` where the tenant has sent too many of late."""
        rate = self._limits.requests_per_minute
        if not rate:
            return
        wait_s = await self._store.usage.take_token(who.tenant, rate)
        if wait_s:
            seconds = math.ceil(wait_s)
            # draft-ietf-httpapi-ratelimit-headers
            told = {"RateLimit-Policy": f'"requests";q={rate};w=60', "RateLimit": f'"requests";r=0;t={seconds}'}
            message = f"More than {rate} requests a minute: try again in {seconds} s."
            raise RequestError("rate_limited", message, retry_after_s=seconds, headers=told)

    @property
    def month_s(self) -> float:
        """Seconds of audio that a tenant has a month; 0 for no limit."""
        return self._limits.minutes_per_month * 60

    async def minutes(self, who: Principal) -> None:
        """EdgeError `quota_exceeded` where the tenant has had its audio of this month."""
        if self.month_s and await self._store.usage.audio_s(who.tenant) >= self.month_s:
            raise self.spent()

    def spent(self) -> RequestError:
        """What is said to a tenant that has had it."""
        limit, now = self._limits.minutes_per_month, datetime.now(UTC)
        following = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        seconds = math.ceil((following - now).total_seconds())
        told = {"RateLimit-Policy": f'"minutes";q={limit:g}', "RateLimit": f'"minutes";r=0;t={seconds}'}
        message = f"The {limit:g} minutes of audio of this month are used up: there are more from {following:%d %B} on."
        return RequestError("quota_exceeded", message, retry_after_s=seconds, headers=told)
