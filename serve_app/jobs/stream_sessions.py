"""class StreamSessions: ends streams of keys, tokens and tickets that are no longer valid."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, NoReturn

from serve_app.errors import RequestError, StoreUnavailable
from serve_app.models.principal import Principal
from serve_app.store.api_keys import ApiKeys

log = logging.getLogger(__name__)

RECHECK_S = 10.0  # keys of open streams are read this often without a notification, which can be lost
MAX_AGE_S = 86_400.0  # of every stream, those that cannot be resumed included


class StreamSession:
    """Validity of one stream; `check` and `wait` raise RequestError `unauthenticated`, at MAX_AGE_S `unavailable`."""

    def __init__(self, expires_at: float | None) -> None:
        self.expires_at = expires_at or inf  # Unix seconds
        self._clock = asyncio.get_running_loop().time
        self._oldest = self._clock() + MAX_AGE_S
        self._deadline = self._reckon()
        self._waiting: asyncio.Timeout | None = None

    def check(self) -> None:
        if self._deadline <= self._clock():
            raise self._ended()

    async def wait(self, change: Coroutine[Any, Any, None]) -> None:
        """Wait for `change`."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._waiting:
                await change
        except TimeoutError:
            raise self._ended() from None
        finally:
            self._waiting = None

    def shorten(self, expires_at: float) -> None:
        self.expires_at = min(self.expires_at, expires_at)
        self._deadline = self._reckon()
        if self._waiting and not self._waiting.expired():
            self._waiting.reschedule(self._deadline)

    def _reckon(self) -> float:
        return min(self._oldest, self._clock() + self.expires_at - time.time())

    def _ended(self) -> RequestError:
        if self.expires_at <= time.time():
            return RequestError("unauthenticated", "The API key, token or ticket of this stream is no longer valid.")
        return RequestError("unavailable", "The stream has reached its maximum age: read the job instead.")


class StreamSessions:
    """Open streams by the API key of their caller."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._open: dict[str, set[StreamSession]] = {}
        self._changed = asyncio.Event()
        self._due: set[str] = set()  # keys to read at once

    @contextmanager
    def open(self, principal: Principal | None) -> Iterator[StreamSession]:
        """Session of a stream; without a principal only its age is bounded."""
        session = StreamSession(principal.expires_at if principal else None)
        key_id = principal.key_id if principal else ""
        same_key = self._open.setdefault(key_id, set())
        same_key.add(session)
        try:
            yield session
        finally:
            same_key.discard(session)
            if not same_key and self._open.get(key_id) is same_key:
                del self._open[key_id]

    def notify(self, key_id: str) -> None:
        self._due.add(key_id)
        self._changed.set()

    async def run(self) -> NoReturn:
        """Read keys of open streams: one after its notification, all from time to time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECHECK_S):
                    await self._changed.wait()
            self._changed.clear()
            due, self._due = self._due or set(self._open), set()
            try:
                for key_id in due - {""}:
                    await self._recheck(key_id)
            except StoreUnavailable as outage:
                log.warning("keys of open streams cannot be read, retrying: %s", outage)

    async def _recheck(self, key_id: str) -> None:
        if key_id not in self._open:
            return
        record = await self._keys.by_id(key_id)
        for session in self._open.get(key_id, ()):
            session.shorten(0.0 if record is None else record.expires_at or inf)
