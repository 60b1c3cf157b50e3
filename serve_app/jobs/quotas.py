"""Quotas of tenants, counted in Redis for all replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from serve_app.errors import RequestError
from serve_app.models.principal import Principal
from serve_app.store.redis_store import Store

RESERVED_RETRY_S = 60  # Retry-After while jobs under way have reserved the rest of the month


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
        """Raises RequestError `quota_exceeded` if this month's audio is used up or reserved."""
        if self.month_s and sum(await self._store.usage.minutes(principal.tenant)) >= self.month_s:
            raise await self.exceeded(principal)

    async def exceeded(self, principal: Principal) -> RequestError:
        used_s, held_s = await self._store.usage.minutes(principal.tenant)
        if held_s and used_s < self.month_s:
            message = "Jobs under way have reserved the rest of this month's audio: try again when some have ended."
            return RequestError("quota_exceeded", message, retry_after_s=RESERVED_RETRY_S)
        limit, now = self._limits.minutes_per_month, datetime.now(UTC)
        next_month = datetime(now.year + now.month // 12, now.month % 12 + 1, 1, tzinfo=UTC)
        seconds = math.ceil((next_month - now).total_seconds())
        headers = {"RateLimit-Policy": f'"minutes";q={limit:g}', "RateLimit": f'"minutes";r=0;t={seconds}'}
        message = f"The {limit:g} minutes of audio of this month are used up: there are more from {next_month:%d %B} on."
        return RequestError("quota_exceeded", message, retry_after_s=seconds, headers=headers)
