"""Quotas of tenants, counted in Redis for all replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from serve_app.errors import RequestError
from serve_app.models.principal import Principal
from serve_app.store.redis_store import Store


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """Limits of every tenant; 0 for none."""

    requests_per_minute: int = 0
    minutes_per_month: float = 0.0


class Quotas:
    def __init__(self, store: Store, limits: TenantLimits) -> None:
        self._store = store
        self._limits = limits

    async def count_request(self, principal: Principal) -> None:
        """Take a token from the tenant's bucket. Raises RequestError `rate_limited`."""
        rate = self._limits.requests_per_minute
        if not rate:
            return
        wait_s = await self._store.usage.take_token(principal.tenant, rate)
        if wait_s:
            seconds = math.ceil(wait_s)
            # draft-ietf-httpapi-ratelimit-headers
            headers = {"RateLimit-Policy": f'"requests";q={rate};w=60', "RateLimit": f'"requests";r=0;t={seconds}'}
            message = f"More than {rate} requests a minute: try again in {seconds} s."
            raise RequestError("rate_limited", message, retry_after_s=seconds, headers=headers)

    @property
    def month_s(self) -> float:
        """Seconds of audio a month; 0 for no limit."""
        return self._limits.minutes_per_month * 60

    async def check_minutes(self, principal: Principal) -> None:
        """Raises RequestError `quota_exceeded` if this month's audio is used up."""
        if self.month_s and await self._store.usage.audio_s(principal.tenant) >= self.month_s:
            raise self.exceeded()

    def exceeded(self) -> RequestError:
        limit, now = self._limits.minutes_per_month, datetime.now(UTC)
        next_month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        seconds = math.ceil((next_month - now).total_seconds())
        headers = {"RateLimit-Policy": f'"minutes";q={limit:g}', "RateLimit": f'"minutes";r=0;t={seconds}'}
        message = f"The {limit:g} minutes of audio of this month are used up: there are more from {next_month:%d %B} on."
        return RequestError("quota_exceeded", message, retry_after_s=seconds, headers=headers)
