"""How Redis is reached: a pool that rides out a restart of the server, and commands that do not wait for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

ANSWER_S = 20.0
OUTAGES = (RedisConnectionError, RedisTimeoutError)
"""What the store raises while its server cannot be reached."""


def connect(url: str, name: str | None = None) -> Redis:
    """A client with a bounded pool that waits for a free connection, and rides out a restart of the server. The server lists
    its connections under `name`."""
    pool = BlockingConnectionPool.from_url(
        url,
        client_name=name,
        max_connections=32,
        timeout=20,
        # With one, redis-py sends every command under asyncio.wait_for, which before Python 3.12 loses a cancel that
        # comes as the sending ends (gh-86296). Each command of the store has a time of its own instead.
        socket_timeout=None,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 6),
        retry_on_error=[RedisConnectionError],
    )
    return Redis.from_pool(pool)


async def answer(command: Any) -> Any:
    """What the server says to a command; RedisTimeoutError where it says nothing for too long."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await command
    except TimeoutError:
        raise RedisTimeoutError(f"no answer in {ANSWER_S:g} s") from None
