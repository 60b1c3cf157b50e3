"""Event streams of jobs (Redis streams), and the pub/sub channels that announce changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis

from serve_app.models.event import Event, EventKind
from serve_app.store.connection import execute
from serve_app.store.scripts import PREFIX, key

POLL_S = 5.0


class EventLog:
    """Reads what the scripts append to `events:ID`, and subscribes to the channels."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, job_id: str, after: str = "0", limit: int = 500) -> list[Event]:
        """Events of a job after the event id `after`, in order."""
        entries: Any = await execute(self._redis.xrange(key(f"events:{job_id}"), f"({after}", "+", count=limit))
        return [Event(i.decode(), EventKind(f[b"kind"].decode()), f[b"data"].decode()) for i, f in entries]

    async def exists(self, job_id: str) -> bool:
        """Whether the job's stream is (still) kept."""
        return bool(await execute(self._redis.exists(key(f"events:{job_id}"))))

    @asynccontextmanager
    async def subscribe(self, *channels: str) -> AsyncIterator[AsyncIterator[tuple[str, str]]]:
        """(channel, job id) as published on `work`, `wake` or `cancel`, over a connection of its own."""
        subscription: Any = self._redis.pubsub(ignore_subscribe_messages=True)
        try:
            await execute(subscription.subscribe(*(key(channel) for channel in channels)))
            yield self._messages(subscription)
        finally:
            await subscription.aclose()

    @staticmethod
    async def _messages(subscription: Any) -> AsyncIterator[tuple[str, str]]:
        while True:
            message = await execute(subscription.get_message(timeout=POLL_S))
            if message is not None:
                yield message["channel"].decode().removeprefix(PREFIX), message["data"].decode()
