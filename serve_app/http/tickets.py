"""Tickets: short-lived read access to one job for clients that send no headers."""

# A ticket is self-contained, so that tickets take no room in Redis, and signed. It ends with the key that made it.

from __future__ import annotations

import base64
import hmac
import time
from math import inf

import orjson

from serve_app.models.job import Job
from serve_app.models.principal import Principal
from serve_app.store.api_keys import ApiKeys

READ = "speech:transcriptions:read"
DEFAULT_S, LONGEST_S = 300.0, 3600.0
MAX_LENGTH = 1024


class Tickets:
    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._secret = b""

    async def issue(self, principal: Principal, job: Job, lifetime_s: float) -> tuple[str, float]:
        """Ticket and its end in Unix seconds, not later than that of the caller's key or token."""
        expires_at = min(time.time() + lifetime_s, principal.expires_at or inf)
        payload = _encode(orjson.dumps([job.id, job.owner, job.tenant, principal.key_id, expires_at]))
        return f"{payload}.{await self._sign(payload)}", expires_at

    async def principal(self, ticket: str) -> Principal | None:
        payload, _, signature = ticket.partition(".")
        if len(ticket) > MAX_LENGTH or not ticket.isascii():
            return None
        if not hmac.compare_digest(await self._sign(payload), signature):
            return None
        job_id, owner, tenant, key_id, expires_at = orjson.loads(_decode(payload))
        if expires_at <= time.time():
            return None
        if key_id:
            key = await self._keys.by_id(key_id)
            if key is None or not (key.principal.may(READ) and key.principal.sees(owner, tenant)):
                return None
            expires_at = min(expires_at, key.expires_at or inf)
        return Principal(owner, tenant, frozenset((READ,)), key_id, expires_at, job_id)

    async def _sign(self, payload: str) -> str:
        self._secret = self._secret or await self._keys.ticket_secret()
        return _encode(hmac.digest(self._secret, payload.encode(), "sha256"))


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
