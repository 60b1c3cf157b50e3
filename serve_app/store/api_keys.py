"""API keys in Redis, and the secret that signs tickets."""

# Keys: `key:ID` hash, `keys` ids by time of creation, `ticket_secret`. Channel: `keys` (the id of a key that ends).

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

from serve_app.models.principal import SCOPES, Principal, name_fault
from serve_app.store.connection import execute
from serve_app.store.scripts import key


class KeyRefused(Exception):
    """A key cannot be created, or does not exist."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: str
    name: str  # owner of the jobs made with it
    tenant: str
    scopes: tuple[str, ...]
    created_at: float  # Unix seconds
    expires_at: float | None  # Unix seconds; None for never
    sha256: str  # of the secret

    @property
    def principal(self) -> Principal:
        return Principal(self.name, self.tenant, frozenset(self.scopes), self.id, self.expires_at)

    def valid(self, now: float) -> bool:
        return self.expires_at is None or now < self.expires_at


class ApiKeys:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def create(self, name: str, tenant: str, scopes: Collection[str], lifetime_s: float | None = None) -> str:
        """Create a key and return it with its secret. KeyRefused."""
        for field, value in (("name", name), ("tenant", tenant)):
            if fault := name_fault(value):
                raise KeyRefused(f"the {field} {value!r} is refused: {fault}")
        if unknown := [scope for scope in scopes if scope not in SCOPES]:
            raise KeyRefused(f"there is no scope {unknown[0]!r}: use {', '.join(SCOPES)}")
        key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
        now = time.time()
        fields: Mapping[Any, Any] = {
            "name": name,
            "tenant": tenant,
            "scopes": " ".join(scopes),
            "created_at": str(now),
            "expires_at": "" if lifetime_s is None else str(now + lifetime_s),
            "sha256": _digest(secret),
        }
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(_record_key(key_id), mapping=fields)
            pipe.zadd(key("keys"), {key_id: now})
            await execute(pipe.execute())
        return f"mur_{key_id}_{secret}"

    async def list(self) -> list[ApiKey]:
        """Keys, oldest first."""
        ids = [key_id.decode() for key_id in await execute(self._redis.zrange(key("keys"), 0, -1))]
        keys = [await self._get(key_id) for key_id in ids]
        return [key for key in keys if key]

    async def revoke(self, key_id: str) -> None:
        """Delete a key. KeyRefused."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(_record_key(key_id))
            pipe.zrem(key("keys"), key_id)
            pipe.publish(key("keys"), key_id)  # its streams end
            deleted, *_ = await execute(pipe.execute())
        if not deleted:
            raise _no_such_key(key_id)

    async def rotate(self, key_id: str, overlap_s: float) -> str:
        """Create a successor; the old key stays valid for `overlap_s` at most. KeyRefused."""
        old = await self._get(key_id)
        if old is None:
            raise _no_such_key(key_id)
        lifetime_s = None if old.expires_at is None else old.expires_at - old.created_at
        successor = await self.create(old.name, old.tenant, old.scopes, lifetime_s)
        end = min(time.time() + overlap_s, old.expires_at or float("inf"))
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(_record_key(key_id), "expires_at", str(end))
            pipe.publish(key("keys"), key_id)
            await execute(pipe.execute())
        return successor

    async def principal(self, key: str) -> Principal | None:
        """Principal of a valid key, else None."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != "mur" or not re.fullmatch(r"[0-9a-f]{16}", key_id):
            return None
        record = await self._get(key_id)
        if record is None or not hmac.compare_digest(record.sha256, _digest(secret)) or not record.valid(time.time()):
            return None
        return record.principal

    async def by_id(self, key_id: str) -> ApiKey | None:
        """A key that is valid now."""
        record = await self._get(key_id)
        return record if record and record.valid(time.time()) else None

    async def ticket_secret(self) -> bytes:
        """Secret that signs tickets, for all replicas; made at first use."""
        await execute(self._redis.set(key("ticket_secret"), secrets.token_bytes(32), nx=True))
        return bytes(await execute(self._redis.get(key("ticket_secret"))))

    async def _get(self, key_id: str) -> ApiKey | None:
        fields: Mapping[bytes, bytes] = await execute(self._redis.hgetall(_record_key(key_id)))
        return _parse(key_id, {k.decode(): v.decode() for k, v in fields.items()}) if b"sha256" in fields else None


def _parse(key_id: str, fields: Mapping[str, str]) -> ApiKey:
    expires_at = float(fields["expires_at"]) if fields["expires_at"] else None
    scopes = tuple(fields["scopes"].split())
    created_at = float(fields["created_at"])
    return ApiKey(key_id, fields["name"], fields["tenant"], scopes, created_at, expires_at, fields["sha256"])


def _no_such_key(key_id: str) -> KeyRefused:
    return KeyRefused(f"there is no key {key_id!r}: `murmur keys list` shows those there are")


def _record_key(key_id: str) -> str:
    return key(f"key:{key_id}")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
