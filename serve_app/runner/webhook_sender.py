"""Signed delivery of a job's end, as Standard Webhooks 1.0.0 has it: at least once, always with one id, over three days.

What ended a job has queued the delivery in the same script; whoever takes it renders the payload in the words of the
dialect that the job was made in, and signs each try anew.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime

from deployments.errors import WorkError
from deployments.ingestion.safe_http import HttpReply, SafeHttp
from serve_app.errors import StoreUnavailable
from serve_app.jobs.results import Results
from serve_app.jobs.webhook_payload import PayloadRenderer
from serve_app.models.delivery import Attempt, DeliveryState, Due
from serve_app.models.job import Job
from serve_app.models.trace import child_span
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

log = logging.getLogger(__name__)

JITTER = 0.1
AT_ONCE, OF_A_TENANT, HOLD_S, ANSWER_S = 64, 8, 120.0, 20.0
"""Deliveries under way: in all, and of one tenant, whose slow server must keep no other waiting."""
IDLE_S = 1.0
LONGEST_WAIT_S = 86_400.0
STOPPED = (410,)
"""Who answers so wants to hear no more of it."""
BUSY = (429, 502, 503, 504)


class WebhookSender:
    """Delivers what is due, as long as it runs. Several run side by side."""

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        results: Results,
        http: SafeHttp,
        renders: Mapping[str, PayloadRenderer],
        retries_s: Sequence[float],
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._results = results
        self._http = http
        self._renders = renders
        self._retries_s = retries_s

    async def run(self) -> None:
        """Deliver until cancelled. One that is cut off is due again when its hold is over."""
        under_way: dict[asyncio.Task[None], str] = {}
        try:
            while True:
                try:
                    for due in await self._outbox.take(AT_ONCE - len(under_way), HOLD_S) if len(under_way) < AT_ONCE else ():
                        if list(under_way.values()).count(due.tenant) >= OF_A_TENANT:
                            await self._outbox.postpone(due, 2 * IDLE_S)
                            continue
                        task = asyncio.create_task(self._serve(due))
                        under_way[task] = due.tenant
                        task.add_done_callback(lambda done: under_way.pop(done, None))
                except StoreUnavailable as outage:
                    log.warning("no webhooks taken: %s", outage)
                except Exception:  # a loop that ends would leave all that follow undelivered
                    log.exception("no webhooks taken")
                await asyncio.sleep(IDLE_S)
        finally:
            for task in under_way:
                task.cancel()

    async def _serve(self, due: Due) -> None:
        try:
            await self.deliver(due)
        except StoreUnavailable as outage:
            log.warning("webhook_id=%s left to its hold: %s", due.id, outage)
        except Exception:
            log.exception("webhook_id=%s was not delivered", due.id)

    async def deliver(self, due: Due) -> DeliveryState | None:
        """Make one try, and note how it went; None where the job is gone, or goes on: it will end again."""
        job = await self._store.jobs.get(due.job_id)
        if job is None or job.spec.webhook is None or due.id != f"{job.id}:{job.done_event}":
            await self._outbox.drop(due)
            return None
        attempt, retry_after_s = await self._try(due, job, job.spec.webhook)
        state, next_s = self._verdict(attempt, due.tries, retry_after_s)
        await self._outbox.note(due, job.owner, job.tenant, job.spec.webhook, attempt, state, next_s)
        log.info(
            "job_id=%s webhook_id=%s try=%d %s %s", job.id, due.id, due.tries + 1, state, attempt.status or attempt.error
        )
        return state

    async def _try(self, due: Due, job: Job, url: str) -> tuple[Attempt, float]:
        now = time.time()
        try:
            payload = await self._renders[job.spec.dialect](job, self._results)
            secrets = [job.spec.webhook_secret] if job.spec.webhook_secret else await self._outbox.secrets(job.tenant)
            headers = {
                **payload.headers,
                **({"traceparent": child_span(job.spec.traceparent)} if job.spec.traceparent else {}),
                "content-type": payload.content_type,
                "webhook-id": due.id,
                "webhook-timestamp": str(int(now)),
                "webhook-signature": " ".join(sign(secret, due.id, int(now), payload.body) for secret in secrets),
            }
            reply = await self._http.post(url, payload.body, headers, within_s=ANSWER_S)
        except WorkError as error:
            return Attempt(now, None, error.message), 0.0
        except StoreUnavailable:
            raise
        except Exception:  # it counts as a try: one that is never noted would be made for ever
            log.exception("job_id=%s webhook_id=%s could not be made", job.id, due.id)
            return Attempt(now, None, "The service could not make this delivery."), 0.0
        return Attempt(now, reply.status, None), retry_after(reply)

    def _verdict(self, attempt: Attempt, tries: int, retry_after_s: float) -> tuple[DeliveryState, float]:
        if attempt.status is not None and 200 <= attempt.status < 300:
            return DeliveryState.DELIVERED, 0.0
        if attempt.status in STOPPED or tries >= len(self._retries_s):
            return DeliveryState.DEAD, 0.0
        wait_s = self._retries_s[tries] * random.uniform(1 - JITTER, 1 + JITTER)
        if attempt.status in BUSY:
            wait_s = max(wait_s, min(retry_after_s, LONGEST_WAIT_S))
        return DeliveryState.PENDING, wait_s


def sign(secret: str, delivery_id: str, at: int, body: bytes) -> str:
    """A body's signature, v1. A secret that is not written as `whsec_` and base64 is taken as it is."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        with suppress(ValueError):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    digest = hmac.new(key, f"{delivery_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def retry_after(reply: HttpReply) -> float:
    """Seconds that a Retry-After asks for, given as such or as a date; 0 without one."""
    told = (reply.retry_after or "").strip()
    if told.isdecimal():
        return float(told[:9])
    try:
        return max(parsedate_to_datetime(told).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
