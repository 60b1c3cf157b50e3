"""Event streams of jobs (Redis streams), and pub/sub channels."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, NoReturn

from redis.asyncio import Redis

from serve_app.errors import StoreUnavailable
from serve_app.models.event import Event, EventKind
from serve_app.store.connection import execute
from serve_app.store.scripts import PREFIX, key

log = logging.getLogger(__name__)

POLL_S = 5.0
RECONNECT_S = 0.5


class EventLog:
    """Reader of `events:ID` and subscriber of the channels."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, job_id: str, after: str = "0", limit: int = 500) -> list[Event]:
        """Events of a job after the event id `after`, in order."""
        entries: Any = await execute(self._redis.xrange(key(f"events:{job_id}"), f"({after}", "+", count=limit))
        return [Event(i.decode(), EventKind(f[b"kind"].decode()), f[b"data"].decode()) for i, f in entries]

    async def exists(self, job_id: str) -> bool:
        return bool(await execute(self._redis.exists(key(f"events:{job_id}"))))

    # Messages published while disconnected are lost: `on_connect` is called after each connect.
    async def listen(
        self, *channels: str, on_message: Callable[[str, str], None], on_connect: Callable[[], None] = lambda: None
    ) -> NoReturn:
        """Call `on_message(channel, job id)` for each message; reconnects."""
        while True:
            try:
                async with self.subscribe(*channels) as messages:
                    on_connect()
                    async for channel, job_id in messages:
                        on_message(channel, job_id)
            except StoreUnavailable as outage:
                log.warning("pub/sub connection lost, reconnecting: %s", outage)
                await asyncio.sleep(RECONNECT_S)

    @asynccontextmanager
    async def subscribe(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """(channel, job id) of each message. Raises StoreUnavailable."""
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await execute(subscription.subscribe(*(key(channel) for channel in channels)))
            yield self._messages(subscription)
        finally:
            with suppress(StoreUnavailable):  # closing a broken connection can fail too
                await execute(subscription.aclose())

    @staticmethod
    async def _messages(subscription: Any) -> AsyncIterator[tuple[str, str]]:
        clock = asyncio.get_running_loop().time
        pinged: float | None = None
        while True:
            message = await execute(subscription.get_message(timeout=POLL_S))
            # A server that hangs, or a network that drops packets, closes no connection: only a missing reply shows it.
            if message is not None:
                pinged = None
                if message["type"] == "message":
                    yield message["channel"].decode().removeprefix(PREFIX), message["data"].decode()
            elif pinged is None:
                pinged = clock()
                await execute(subscription.ping())
            elif clock() - pinged >= POLL_S:
                raise StoreUnavailable(f"no reply to a ping in {POLL_S:g} s")
            if subscription.connection is None or subscription.connection.should_reconnect():
                raise StoreUnavailable("the server is no longer the primary")
