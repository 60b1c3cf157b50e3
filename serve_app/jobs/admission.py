"""class Admission: limits of a tenant on new and retried jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from serve_app.errors import RequestError
from serve_app.jobs.quotas import Quotas
from serve_app.jobs.submission import Draft
from serve_app.models.principal import Principal
from serve_app.models.submission import RetryOutcome, SubmitOutcome
from serve_app.store.redis_store import Store

UNKNOWN_PACE_S = 60.0  # assumed time until there is room in a full queue


@dataclass(slots=True)
class Admission:
    """Limits, 0 for none."""

    store: Store
    quotas: Quotas
    queue_limit: int  # jobs that wait
    kept_limit: int  # jobs, ended ones included

    async def check(self, draft: Draft) -> None:
        """Check quota and queue before a body is read. Raises RequestError."""
        if draft.repeated:
            return  # it may return an existing job, whatever is full or used up by now
        await self.quotas.check_minutes(draft.principal)
        tenant = draft.principal.tenant
        if self.queue_limit and await self.store.usage.waiting(tenant) >= self.queue_limit:
            raise await self._queue_full(tenant)

    async def check_outcome(self, outcome: SubmitOutcome | RetryOutcome | None, principal: Principal) -> None:
        """Raise the RequestError of a job that was not queued for a limit."""
        if outcome in (SubmitOutcome.FULL, RetryOutcome.FULL):
            raise await self._queue_full(principal.tenant)
        if outcome in (SubmitOutcome.SPENT, RetryOutcome.SPENT):
            raise await self.quotas.exceeded(principal)
        if outcome is SubmitOutcome.KEPT:
            message = "No more jobs can be kept: delete some that have ended, or wait until they expire."
            raise RequestError("quota_exceeded", message)

    async def _queue_full(self, tenant: str) -> RequestError:
        # There is room when the tenant's next job is claimed.
        pace_s = await self.store.usage.pace_s(tenant)
        wait_s = math.ceil(pace_s or UNKNOWN_PACE_S)
        message = f"The queue is full ({self.queue_limit} jobs): try again in {wait_s} s."
        return RequestError("rate_limited", message, retry_after_s=wait_s)
