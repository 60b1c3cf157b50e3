"""Webhooks on their way, in Redis: which are due, how each has fared, the secrets they are signed with.

Keys, under the store's hash tag: `webhooks` deliveries by the time they are due (the store's finish adds them),
`delivery:ID` hash, `deliveries:TENANT/OWNER` ids in order, `hook:TENANT` secrets. What must change together changes in one
script (lua/hook_*.lua).
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from redis.asyncio import Redis

from serve_app.jobs.connection import answer
from serve_app.jobs.store import PREFIX, script

SECRET_BYTES = 32
SCANNED = 1000
KEPT_S = 30 * 86_400
"""How long it is told how a delivery has fared."""


class State(StrEnum):
    """How a delivery stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try: when (Unix seconds), the status that was answered, or why there was none."""

    at: float
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A terminal event of a job on its way to a URL. `id` is the `webhook-id` of every try."""

    id: str
    job_id: str
    url: str
    state: State
    created_at: float
    next_at: float | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery whose time has come; `tries` were made before."""

    id: str
    job_id: str
    tries: int
    tenant: str = ""


class Outbox:
    """Everything about deliveries that is kept."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        names = ("hook_take", "hook_wait", "hook_note", "hook_again", "hook_drop")
        self._scripts = {name: redis.register_script(script(name)) for name in names}

    async def take(self, limit: int, hold_s: float) -> list[Due]:
        """Deliveries that are due, at most `limit`; they are due again after `hold_s` if nothing is noted of them."""
        found: Any = await self._run("hook_take", limit, int(hold_s * 1000))
        return [Due(i.decode(), i.decode().partition(":")[0], int(tries), tenant.decode()) for i, tries, tenant in found]

    async def put_off(self, due: Due, seconds: float) -> None:
        """Have a delivery due again after a while."""
        await self._run("hook_wait", due.id, int(seconds * 1000))

    async def note(
        self, due: Due, owner: str, tenant: str, url: str, attempt: Attempt, state: State, next_s: float = 0.0
    ) -> None:
        """How a try went; one that is still pending is due again after `next_s`."""
        told = orjson.dumps({"at": attempt.at, "status": attempt.status, "error": attempt.error})
        await self._run("hook_note", due.id, f"{tenant}/{owner}", url, told, state, int(next_s * 1000), KEPT_S * 1000)

    async def drop(self, due: Due) -> None:
        """Give up a delivery whose job is gone, or has gone on."""
        await self._run("hook_drop", due.id)

    async def again(self, delivery_id: str, owner: str, tenant: str) -> bool:
        """Have a delivery made again, now. False where the owner has none of this id, or its job is gone
        or has been tried again since."""
        return bool(await self._run("hook_again", delivery_id, f"{tenant}/{owner}"))

    async def page(
        self, owner: str, tenant: str, *, limit: int, before: int | None = None, state: State | None = None
    ) -> tuple[list[Delivery], int | None]:
        """An owner's deliveries, newest first, those in one state if asked; and what to ask on from, None at the end. At
        most `SCANNED` are looked at: a page may be short, or empty, and have another after it."""
        index, top, found, scanned = f"{PREFIX}deliveries:{tenant}/{owner}", before, list[Delivery](), 0
        while len(found) < limit and scanned < SCANNED:
            bound = "+inf" if top is None else f"({top}"
            ids: Any = await answer(self._redis.zrevrangebyscore(index, bound, "-inf", start=0, num=100, withscores=True))
            deliveries = await self._get_many([name.decode() for name, _ in ids])
            for (_, score), delivery in zip(ids, deliveries, strict=True):
                top = int(score)
                if delivery and state in (None, delivery.state):
                    found.append(delivery)
                    if len(found) == limit:
                        return found, top
            if len(ids) < 100:
                return found, None
            scanned += len(ids)
        return found, top

    async def get(self, delivery_id: str) -> Delivery | None:
        """One of them."""
        return (await self._get_many([delivery_id]))[0]

    async def _get_many(self, ids: Sequence[str]) -> list[Delivery | None]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for delivery_id in ids:
                pipe.hgetall(f"{PREFIX}delivery:{delivery_id}")
                pipe.zscore(f"{PREFIX}webhooks", delivery_id)
            told = await answer(pipe.execute())
        return [_delivery(delivery_id, *told[2 * i : 2 * i + 2]) for i, delivery_id in enumerate(ids)]

    # What a tenant's deliveries are signed with.

    async def secrets(self, tenant: str) -> list[str]:
        """The secrets that are good now, the newest first; the first is made when it is first asked for."""
        place = f"{PREFIX}hook:{tenant}"
        await answer(self._redis.hsetnx(place, "secret", new_secret()))
        fields: Mapping[bytes, bytes] = await answer(self._redis.hgetall(place))
        old_is_good = time.time() < float(fields.get(b"old_until", b"0"))
        return [fields[b"secret"].decode(), *([fields[b"old"].decode()] if old_is_good else [])]

    async def rotate(self, tenant: str, overlap_s: float) -> list[str]:
        """Make a new secret; both sign for `overlap_s`."""
        current = (await self.secrets(tenant))[0]
        fields: Mapping[Any, Any] = {"secret": new_secret(), "old": current, "old_until": str(time.time() + overlap_s)}
        await answer(self._redis.hset(f"{PREFIX}hook:{tenant}", mapping=fields))
        return await self.secrets(tenant)

    async def _run(self, name: str, *arguments: Any) -> Any:
        return await answer(self._scripts[name](keys=[PREFIX], args=arguments))


def _delivery(delivery_id: str, fields: Mapping[bytes, bytes], due: float | None) -> Delivery | None:
    if not fields:
        return None
    state = State(fields[b"state"].decode())
    tries = (orjson.loads(one) for one in fields[b"log"].split(b"\n") if one)
    return Delivery(
        id=delivery_id,
        job_id=delivery_id.partition(":")[0],
        url=fields[b"url"].decode(),
        state=state,
        created_at=int(fields[b"created_at"]) / 1000,
        next_at=due / 1000 if due is not None and state is State.PENDING else None,
        attempts=tuple(Attempt(one["at"], one["status"], one["error"]) for one in tries),
    )


def new_secret() -> str:
    """As Standard Webhooks writes one."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
