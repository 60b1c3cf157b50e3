"""Redis client, and commands with a timeout."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from serve_app.errors import StoreUnavailable
from serve_app.store.outages import DEMOTED, code_of, outage

log = logging.getLogger(__name__)

REPLY_S = 20.0


class Pool(BlockingConnectionPool):
    """Pool that reconnects once a connection turns out to lead to a replica."""

    @classmethod
    def following(cls, url: str, **options: Any) -> Pool:
        pool: Pool = cls.from_url(url, **options)
        plain = pool.connection_class
        pool.connection_class = type(f"Following{plain.__name__}", (_Following, plain), {"pool": pool})
        return pool

    async def leave(self, reason: str) -> None:
        """Close idle connections, and those in use when they are released."""
        log.warning("Redis refused a command, reconnecting to its address: %s", reason)
        for connection in self._in_use_connections:
            connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
        for connection in list(self._available_connections):
            await connection.disconnect(nowait=True)


class _Following(AbstractConnection):
    pool: Pool

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)
        except RedisError as error:
            if code_of(error) in DEMOTED and not self._should_reconnect:
                await self.pool.leave(str(error))
            raise


class _Retry(Retry):
    async def call_with_retry(self, do: Any, fail: Any, is_retryable: Any = None, with_failure_count: bool = False) -> Any:
        # A refused password is a connection error to redis-py: all its retries, at two levels, would take 20 s.
        return await super().call_with_retry(do, fail, is_retryable or _may_pass, with_failure_count)


def _may_pass(error: Exception) -> bool:
    return not isinstance(error, AuthenticationError | AuthorizationError)


def connect(url: str, name: str | None = None) -> Redis:
    """Client with a bounded, blocking pool that reconnects with back-off."""
    pool = Pool.following(
        url,
        client_name=name,
        max_connections=32,
        timeout=20,
        # With a socket timeout, redis-py sends every command under asyncio.wait_for, which before Python 3.12 loses a cancel
        # that arrives as the sending ends (gh-86296). `execute` has a timeout of its own instead.
        socket_timeout=None,
        socket_connect_timeout=5,
        health_check_interval=30,
        retry=_Retry(ExponentialBackoff(cap=1.0, base=0.05), 6),
        retry_on_error=[RedisConnectionError],
    )
    return Redis.from_pool(pool)


async def execute(command: Any, reply_s: float | None = None) -> Any:
    """Await a Redis command for `reply_s` (REPLY_S). Raises StoreUnavailable."""
    limit_s = REPLY_S if reply_s is None else reply_s
    try:
        async with asyncio.timeout(limit_s):
            return await command
    except TimeoutError:
        raise StoreUnavailable(f"no reply from Redis in {limit_s:g} s") from None
    except RedisError as error:
        if reason := outage(error):
            raise reason from error
        raise
    except OSError as error:  # of a socket, where redis-py lets it through
        raise StoreUnavailable(str(error)) from error
