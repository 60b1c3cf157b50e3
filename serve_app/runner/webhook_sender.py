"""class WebhookSender: signed delivery of a job's end (Standard Webhooks 1.0.0)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import random
import time
from collections import Counter
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
from serve_app.runner.loops import every
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

log = logging.getLogger(__name__)

JITTER = 0.1
IN_FLIGHT = 64
IN_FLIGHT_PER_TENANT = 8  # a tenant's slow server delays no other tenant
HOLD_S = 120.0  # visibility timeout of a claimed delivery
REPLY_S = 20.0
IDLE_S = 1.0
LONGEST_WAIT_S = 86_400.0
GONE = 410  # the receiver wants no more deliveries
BUSY = (429, 502, 503, 504)  # their Retry-After is respected


class WebhookSender:
    """Sender of due deliveries. Several run side by side."""

    def __init__(
        self,
        outbox: Outbox,
        store: Store,
        results: Results,
        http: SafeHttp,
        renderers: Mapping[str, PayloadRenderer],  # by dialect
        retries_s: Sequence[float],  # delay before each retry
    ) -> None:
        self._outbox = outbox
        self._store = store
        self._results = results
        self._http = http
        self._renderers = renderers
        self._retries_s = retries_s
        self._in_flight: dict[asyncio.Task[None], str] = {}  # tenant by task
        self._wake = asyncio.Event()  # a delivery has ended, and another may begin

    async def run(self) -> None:
        """Deliver until cancelled. A delivery that is cut off is due again when its hold expires."""
        try:
            await every(IDLE_S, self._take, "webhook queue", self._wake)
        finally:
            for task in list(self._in_flight):
                task.cancel()

    async def _take(self) -> None:
        free = IN_FLIGHT - len(self._in_flight)
        in_flight = Counter(self._in_flight.values())
        if free <= 0:
            return
        for due in await self._outbox.take(free, HOLD_S, most=IN_FLIGHT_PER_TENANT, in_flight=in_flight):
            task = asyncio.create_task(self._send(due))
            self._in_flight[task] = due.tenant
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._in_flight.pop(task, None)
        self._wake.set()

    async def _send(self, due: Due) -> None:
        try:
            await self.deliver(due)
        except StoreUnavailable as outage:
            log.warning("webhook_id=%s Redis unavailable, retry when the hold expires: %s", due.id, outage)
        except Exception:
            log.exception("webhook_id=%s delivery failed, retry when the hold expires", due.id)

    async def deliver(self, due: Due) -> DeliveryState | None:
        """Attempt a delivery and log the outcome; None if the job was deleted or retried."""
        job = await self._store.jobs.get(due.job_id)
        if job is None or job.spec.webhook is None or due.id != f"{job.id}:{job.done_event}":
            await self._outbox.drop(due)
            return None
        attempt, retry_after_s = await self._attempt(due, job, job.spec.webhook)
        state, next_s = self._outcome(attempt, due.tries, retry_after_s)
        await self._outbox.note(due, job.owner, job.spec.webhook, attempt, state, next_s)
        log.info(
            "job_id=%s webhook_id=%s try=%d %s %s", job.id, due.id, due.tries + 1, state, attempt.status or attempt.error
        )
        return state

    async def _attempt(self, due: Due, job: Job, url: str) -> tuple[Attempt, float]:
        """The attempt, and the seconds of its Retry-After."""
        now = time.time()
        try:
            payload = await self._renderers[job.spec.dialect](job, self._results)
            secrets = [job.spec.webhook_secret] if job.spec.webhook_secret else await self._outbox.secrets(job.tenant)
            headers = {
                **payload.headers,
                **({"traceparent": child_span(job.spec.traceparent)} if job.spec.traceparent else {}),
                "content-type": payload.content_type,
                "webhook-id": due.id,
                "webhook-timestamp": str(int(now)),
                "webhook-signature": " ".join(sign(secret, due.id, int(now), payload.body) for secret in secrets),
            }
            reply = await self._http.post(url, payload.body, headers, within_s=REPLY_S)
        except WorkError as error:
            return Attempt(now, None, error.message), 0.0
        except StoreUnavailable:
            raise
        except Exception:  # counts as an attempt: one that is not logged would be repeated for ever
            log.exception("job_id=%s webhook_id=%s attempt failed", job.id, due.id)
            return Attempt(now, None, "The service could not make this delivery."), 0.0
        return Attempt(now, reply.status, None), retry_after(reply)

    def _outcome(self, attempt: Attempt, tries: int, retry_after_s: float) -> tuple[DeliveryState, float]:
        """State, and seconds until the next attempt."""
        if attempt.status is not None and 200 <= attempt.status < 300:
            return DeliveryState.DELIVERED, 0.0
        if attempt.status == GONE or tries >= len(self._retries_s):
            return DeliveryState.DEAD, 0.0
        wait_s = self._retries_s[tries] * random.uniform(1 - JITTER, 1 + JITTER)
        if attempt.status in BUSY:
            wait_s = max(wait_s, min(retry_after_s, LONGEST_WAIT_S))
        return DeliveryState.PENDING, wait_s


def sign(secret: str, delivery_id: str, at: int, body: bytes) -> str:
    """Signature v1. A secret is base64 after `whsec_`, else plain text."""
    key = secret.encode()
    if secret.startswith("whsec_"):
        with suppress(ValueError):
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    digest = hmac.new(key, f"{delivery_id}.{at}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def retry_after(reply: HttpReply) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 without one."""
    value = (reply.retry_after or "").strip()
    if value.isdecimal():
        return float(value[:9])
    try:
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0
