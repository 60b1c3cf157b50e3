"""Webhook deliveries: due times, log of attempts, signing secrets."""

# Keys: `webhooks:TENANT` deliveries by due time (added by the script that ends a job), `webhooks` tenants by turn,
# `delivery:ID` hash, `delivery_expiry` ids by the end of their log, `deliveries:TENANT/OWNER` ids in order, `hook:TENANT`
# secrets.

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import orjson
from redis.asyncio import Redis

from serve_app.models.delivery import Attempt, Delivery, DeliveryState, Due
from serve_app.store.connection import execute
from serve_app.store.scripts import Scripts, key

SECRET_BYTES = 32
PAGE = 100
SCAN_LIMIT = 1000
LOG_TTL_S = 30 * 86_400


class Outbox:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._run = Scripts(redis).run

    async def take(
        self, limit: int, hold_s: float, *, most: int = 1000, in_flight: Mapping[str, int] = MappingProxyType({})
    ) -> list[Due]:
        """Claim due deliveries, of each tenant in turn, with a visibility timeout of `hold_s`."""
        # A tenant gets `most` less what it has `in_flight` already.
        busy = [item for pair in in_flight.items() for item in pair]
        due: Any = await self._run("webhook_take", limit, int(hold_s * 1000), most, *busy)
        return [Due(i.decode(), i.decode().partition(":")[0], int(tries), tenant.decode()) for i, tries, tenant in due]

    async def note(
        self, due: Due, owner: str, url: str, attempt: Attempt, state: DeliveryState, next_s: float = 0.0
    ) -> None:
        """Log an attempt; a PENDING delivery is due after `next_s`."""
        entry = orjson.dumps({"at": attempt.at, "status": attempt.status, "error": attempt.error})
        times = int(next_s * 1000), LOG_TTL_S * 1000
        await self._run("webhook_note", due.id, due.tenant, owner, url, entry, state, *times)

    async def drop(self, due: Due) -> None:
        await self._run("webhook_drop", due.id, due.tenant)

    async def redeliver(self, delivery_id: str, owner: str, tenant: str) -> bool | None:
        """Make a delivery due now. False if its job is gone or was retried, None if the owner has no such delivery."""
        reply = await self._run("webhook_redeliver", delivery_id, tenant, owner)
        return None if reply is None else bool(reply)

    async def page(
        self, owner: str, tenant: str, *, limit: int, before: int | None = None, state: DeliveryState | None = None
    ) -> tuple[list[Delivery], int | None]:
        """Deliveries, newest first, and the next cursor (None at the end)."""
        # At most SCAN_LIMIT are read: with a `state`, a page can be short or empty and still have another after it.
        index, top, page, scanned = key(f"deliveries:{tenant}/{owner}"), before, list[Delivery](), 0
        while len(page) < limit and scanned < SCAN_LIMIT:
            bound = "+inf" if top is None else f"({top}"
            ids: Any = await execute(self._redis.zrevrangebyscore(index, bound, "-inf", start=0, num=PAGE, withscores=True))
            deliveries = await self._get_many([name.decode() for name, _ in ids], tenant)
            for (_, score), delivery in zip(ids, deliveries, strict=True):
                top = int(score)
                if delivery and state in (None, delivery.state):
                    page.append(delivery)
                    if len(page) == limit:
                        return page, top
            if len(ids) < PAGE:
                return page, None
            scanned += len(ids)
        return page, top

    async def get(self, delivery_id: str, tenant: str) -> Delivery | None:
        return (await self._get_many([delivery_id], tenant))[0]

    async def _get_many(self, ids: Sequence[str], tenant: str) -> list[Delivery | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for delivery_id in ids:
                pipe.hgetall(key(f"delivery:{delivery_id}"))
                pipe.zscore(key(f"webhooks:{tenant}"), delivery_id)
            replies = await execute(pipe.execute())
        return [_delivery(delivery_id, *replies[2 * i : 2 * i + 2]) for i, delivery_id in enumerate(ids)]

    async def secrets(self, tenant: str) -> list[str]:
        """Valid signing secrets, newest first; the first is created on demand."""
        name = key(f"hook:{tenant}")
        await execute(self._redis.hsetnx(name, "secret", new_secret()))
        fields: Mapping[bytes, bytes] = await execute(self._redis.hgetall(name))
        overlaps = time.time() < float(fields.get(b"old_until", b"0"))
        return [fields[b"secret"].decode(), *([fields[b"old"].decode()] if overlaps else [])]

    async def rotate(self, tenant: str, overlap_s: float) -> list[str]:
        """Create a new secret; the old one stays valid for `overlap_s`."""
        current = (await self.secrets(tenant))[0]
        fields: Mapping[Any, Any] = {"secret": new_secret(), "old": current, "old_until": str(time.time() + overlap_s)}
        await execute(self._redis.hset(key(f"hook:{tenant}"), mapping=fields))
        return await self.secrets(tenant)


def _delivery(delivery_id: str, fields: Mapping[bytes, bytes], due: float | None) -> Delivery | None:
    if not fields:
        return None
    state = DeliveryState(fields[b"state"].decode())
    entries = (orjson.loads(line) for line in fields[b"log"].split(b"\n") if line)
    return Delivery(
        id=delivery_id,
        job_id=delivery_id.partition(":")[0],
        url=fields[b"url"].decode(),
        state=state,
        created_at=int(fields[b"created_at"]) / 1000,
        next_at=due / 1000 if due is not None and state is DeliveryState.PENDING else None,
        attempts=tuple(Attempt(entry["at"], entry["status"], entry["error"]) for entry in entries),
    )


def new_secret() -> str:
    """Random secret in the format of Standard Webhooks."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
