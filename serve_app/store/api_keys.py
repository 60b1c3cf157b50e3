"""API keys: made, shown once, kept as a hash, looked up by their id.

Kept in Redis beside the jobs, under names of their own: `key:ID` a hash, `keys` the ids by the time they were made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from serve_app.models.principal import NAME, SCOPES, Principal
from serve_app.store.connection import execute
from serve_app.store.scripts import key


class KeyRefused(Exception):
    """A key cannot be made, or there is none of this id; one sentence."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. Whoever holds it acts as `name` within `tenant`. Times are Unix seconds."""

    id: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    sha256: str

    @property
    def principal(self) -> Principal:
        """Who asks with it."""
        return Principal(self.name, self.tenant, frozenset(self.scopes))

    def good(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


class ApiKeys:
    """All keys of a service."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, name: str, tenant: str, scopes: Collection[str], lifetime_s: float | None = None) -> str:
        """Make a key; the only time that it is seen. Keys of one name and tenant see the same jobs. KeyRefused."""
        for what, value in (("name", name), ("tenant", tenant)):
            if not NAME.fullmatch(value):
                raise KeyRefused(f"the {what} {value!r} is refused: use 1 to 64 letters, digits and any of . _ - @")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise KeyRefused(f"there is no scope {unknown[0]!r}: use {', '.join(SCOPES)}")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        now = time.time()
        expires = "" if lifetime_s is None else str(now + lifetime_s)
        fields: Mapping[Any, Any] = {
            "name": name,
            "tenant": tenant,
            "scopes": " ".join(scopes),
            "created_at": str(now),
            "expires_at": expires,
            "sha256": _digest(secret),
        }
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(_at(key_id), mapping=fields)
            pipe.zadd(key("keys"), {key_id: now})
            await execute(pipe.execute())
        return f"mur_{key_id}_{secret}"

    async def list(self) -> list[ApiKey]:
        """Every key, oldest first."""
        ids = [key_id.decode() for key_id in await execute(self._redis.zrange(key("keys"), 0, -1))]
        found = [await self._get(key_id) for key_id in ids]
        return [key for key in found if key]

    async def revoke(self, key_id: str) -> None:
        """No request with it is answered from now on. KeyRefused where there is none."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_at(key_id))
            pipe.zrem(key("keys"), key_id)
            gone, _ = await execute(pipe.execute())
        if not gone:
            raise KeyRefused(f"there is no key {key_id!r}: `murmur keys list` shows those there are")

    async def rotate(self, key_id: str, overlap_s: float) -> str:
        """A new key in place of one that goes on for `overlap_s`, or to its own end if that is sooner. KeyRefused."""
        old = await self._get(key_id)
        if old is None:
            raise KeyRefused(f"there is no key {key_id!r}: `murmur keys list` shows those there are")
        lifetime_s = None if old.expires_at is None else old.expires_at - old.created_at
        fresh = await self.create(old.name, old.tenant, old.scopes, lifetime_s)
        end = min(time.time() + overlap_s, old.expires_at or float("inf"))
        await execute(self._redis.hset(_at(key_id), "expires_at", str(end)))
        return fresh

    async def principal(self, key: str) -> Principal | None:
        """Whose key it is; None for one that is unknown, revoked or expired."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != "mur" or not re.fullmatch(r"[0-9a-f]{16}", key_id):
            return None
        found = await self._get(key_id)
        if found is None or not hmac.compare_digest(found.sha256, _digest(secret)) or not found.good(time.time()):
            return None
        return found.principal

    async def _get(self, key_id: str) -> ApiKey | None:
        fields: Mapping[bytes, bytes] = await execute(self._redis.hgetall(_at(key_id)))
        return _key(key_id, {k.decode(): v.decode() for k, v in fields.items()}) if fields else None


def _key(key_id: str, fields: Mapping[str, Any]) -> ApiKey:
    expires = float(fields["expires_at"]) if fields["expires_at"] else None
    scopes = tuple(fields["scopes"].split())
    created = float(fields["created_at"])
    return ApiKey(key_id, fields["name"], fields["tenant"], scopes, created, expires, fields["sha256"])


def _at(key_id: str) -> str:
    return key(f"key:{key_id}")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
