"""Redis client, and commands with a timeout."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from serve_app.errors import StoreUnavailable

REPLY_S = 20.0


class Client(Redis):
    address: tuple[str, str | None]  # URL, and name of the connections

    def reopen(self) -> Client:
        """Client of the same server for another event loop: connections belong to one."""
        return connect(*self.address)


def connect(url: str, name: str | None = None) -> Client:
    """Client with a bounded, blocking pool that reconnects with back-off."""
    pool = BlockingConnectionPool.from_url(
        url,
        client_name=name,
        max_connections=32,
        timeout=20,
        # With a socket timeout, redis-py sends every command under asyncio.wait_for, which before Python 3.12 loses a cancel
        # that arrives as the sending ends (gh-86296). `execute` has a timeout of its own instead.
        socket_timeout=None,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=1.0, base=0.05), 6),
        retry_on_error=[RedisConnectionError],
    )
    client = Client(connection_pool=pool)
    client.auto_close_connection_pool = True
    client.address = (url, name)
    return client


async def execute(command: Any) -> Any:
    """Await a Redis command. Raises StoreUnavailable if the server is unreachable or slower than REPLY_S."""
    try:
        async with asyncio.timeout(REPLY_S):
            return await command
    except TimeoutError:
        raise StoreUnavailable(f"no reply from Redis in {REPLY_S:g} s") from None
    except (RedisConnectionError, RedisTimeoutError) as error:
        raise StoreUnavailable(str(error)) from error
