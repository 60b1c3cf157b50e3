"""A real Valkey that refuses: each refusal is StoreUnavailable with a remedy, and a demoted primary is left."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    InvalidResponse,
    MasterDownError,
    MaxConnectionsError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from benchmarks.lib.harness import free_port
from serve_app.errors import StoreMisconfigured, StoreUnavailable
from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec
from serve_app.store import connection, event_log, scripts
from serve_app.store.connection import connect
from serve_app.store.outages import outage
from serve_app.store.redis_store import Store
from tests.lib.murmur_process import valkey_server

SPEC = JobSpec("base")
State = Callable[[Redis, str], Awaitable[Any]]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Callable[[str], Valkey]]:
    """Start Valkeys by name."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(valkey_server(tmp_path / name))


@pytest.fixture
async def admin(servers: Callable[[str], Valkey]) -> AsyncIterator[Redis]:
    """Client of a Valkey's operator."""
    redis = Redis.from_url(f"{servers('one').url}")
    yield redis
    await redis.aclose()


def url_of(redis: Redis) -> str:
    return f"unix://{redis.connection_pool.connection_kwargs['path']}"


async def full(admin: Redis, _: str) -> None:
    await admin.config_set("maxmemory", 1)


async def replica(admin: Redis, _: str) -> None:
    await admin.replicaof("127.0.0.1", "9")


async def replica_without_data(admin: Redis, _: str) -> None:
    await admin.config_set("replica-serve-stale-data", "no")
    await admin.replicaof("127.0.0.1", "9")


async def lonely(admin: Redis, _: str) -> None:
    await admin.config_set("min-replicas-to-write", 1)


async def without_writes(admin: Redis, _: str) -> None:
    await admin.acl_setuser("default", enabled=True, nopass=True, categories=["+@all", "-@write"], keys=["*"])


async def protected(admin: Redis, _: str) -> None:
    await admin.config_set("requirepass", "secret")


@pytest.mark.parametrize(
    ("state", "kind", "reason"),
    [
        (full, StoreUnavailable, "raise maxmemory"),
        (replica, StoreUnavailable, "refuses writes"),
        (replica_without_data, StoreUnavailable, "to find the primary"),
        (lonely, StoreUnavailable, "min-replicas-to-write"),
        (without_writes, StoreMisconfigured, "ACL SETUSER"),
        (protected, StoreMisconfigured, "put it into the Redis URL"),
    ],
)
async def test_a_server_that_refuses_writes_is_away_with_a_remedy(
    admin: Redis, state: State, kind: type[Exception], reason: str
) -> None:
    store = Store(connect(url_of(admin)))
    await store.jobs.submit("before", "me", "t", SPEC, ttl_s=60)
    await state(admin, "")
    await admin.connection_pool.disconnect()
    store_after = Store(connect(url_of(admin)))
    for one in (store, store_after) if state is not protected else (store_after,):  # a password is asked for once
        with pytest.raises(StoreUnavailable, match=reason) as refused:
            await one.jobs.submit("after", "me", "t", SPEC, ttl_s=60)
        assert type(refused.value) is kind
        with pytest.raises(StoreUnavailable, match=reason):
            await one.leases.set_weights({"t": 2.0})  # a transaction
    await store.close()
    await store_after.close()


async def test_a_server_busy_with_a_script_is_away_and_used_again(admin: Redis) -> None:
    store = Store(connect(url_of(admin)))
    await admin.config_set("busy-reply-threshold", 10)
    looping: asyncio.Future[Any] = asyncio.ensure_future(admin.eval("while true do end", 0))
    other = Redis.from_url(url_of(admin))
    async with asyncio.timeout(30):
        while True:
            try:
                await other.ping()
            except ResponseError:
                break
    with pytest.raises(StoreUnavailable, match="busy with a script"):
        await store.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
    await other.script_kill()
    await asyncio.wait([looping])
    assert looping.exception()
    await store.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
    await other.aclose()
    await store.close()


async def test_a_server_that_cannot_save_is_away(admin: Redis, tmp_path: Path) -> None:
    await admin.config_set("appendonly", "no")
    await admin.config_set("save", "1 1")
    (tmp_path / "one/valkey/dump.rdb").mkdir()  # no snapshot can be renamed to it
    await admin.set("key", "value")
    with pytest.raises(RedisError):
        await admin.save()
    async with asyncio.timeout(30):
        await admin.bgsave()
        while (await admin.info("persistence"))["rdb_last_bgsave_status"] == "ok":  # noqa: ASYNC110 - it sends no event
            await asyncio.sleep(0.05)
    store = Store(connect(url_of(admin)))
    with pytest.raises(StoreUnavailable, match="cannot save to its disk"):
        await store.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
    await store.close()


async def test_scripts_are_sent_again_to_a_server_that_forgot_them(admin: Redis) -> None:
    store = Store(connect(url_of(admin)))
    await store.jobs.submit("one", "me", "t", SPEC, ttl_s=60)
    await admin.script_flush()
    await store.jobs.submit("two", "me", "t", SPEC, ttl_s=60)
    assert await store.jobs.get("two")
    await store.close()


async def test_a_demoted_primary_is_left_for_the_one_that_its_address_stands_for_now(
    servers: Callable[[str], Valkey], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, second = servers("first"), servers("second")
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as directory:
        address = Path(directory) / "primary.sock"  # a link in place of a DNS name
        address.symlink_to(first.url.removeprefix("unix://"))
        store = Store(connect(f"unix://{address}"))
        await asyncio.gather(*(store.jobs.submit(f"{n}", "me", "t", SPEC, ttl_s=60) for n in range(5)))
        async with store.events.subscribe("work") as messages:
            address.unlink()
            address.symlink_to(second.url.removeprefix("unix://"))
            admin = Redis.from_url(first.url)
            await admin.replicaof("127.0.0.1", "9")
            with pytest.raises(StoreUnavailable, match="refuses writes"):
                await store.jobs.submit("lost", "me", "t", SPEC, ttl_s=60)
            await admin.publish("murmur:{q}:work", "any")  # the listener looks at its connection
            with pytest.raises(StoreUnavailable, match="no longer the primary"):
                async for _ in messages:
                    pass
        # Every connection, not the refused one alone: one that only reads would read a replica's old data for ever.
        for n in range(5):
            assert await store.jobs.get(f"{n}") is None
        await store.jobs.submit("new", "me", "t", SPEC, ttl_s=60)
        other = Store(connect(second.url))
        assert await other.jobs.get("new")
        await other.close()
        assert "reconnecting to its address" in caplog.text
        await admin.aclose()
        await store.close()


async def test_a_listener_notices_a_suspended_server_and_connects_again(
    servers: Callable[[str], Valkey], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(event_log, "POLL_S", 0.2)
    monkeypatch.setattr(event_log, "RECONNECT_S", 0.02)
    monkeypatch.setattr(connection, "REPLY_S", 1.0)
    server = servers("one")
    store, connected = Store(connect(server.url)), asyncio.Event()
    messages = asyncio.Queue[str]()
    listening = asyncio.create_task(
        store.events.listen("work", on_message=lambda _, job: messages.put_nowait(job), on_connect=connected.set)
    )
    async with asyncio.timeout(30):
        await connected.wait()
        connected.clear()
        assert server.pid
        os.kill(server.pid, signal.SIGSTOP)
        while "pub/sub connection lost" not in caplog.text:  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.02)
        assert "no reply to a ping" in caplog.text
        os.kill(server.pid, signal.SIGCONT)
        await connected.wait()
        await store.jobs.submit("job", "me", "t", SPEC, ttl_s=60)
        await messages.get()
    listening.cancel()
    await asyncio.wait([listening])
    await store.close()


async def test_a_job_is_accepted_only_once_the_replicas_have_it(
    servers: Callable[[str], Valkey], monkeypatch: pytest.MonkeyPatch
) -> None:
    primary, replica = servers("primary"), servers("replica")
    port, admin, follower = free_port(), Redis.from_url(primary.url), Redis.from_url(replica.url)
    await admin.config_set("repl-diskless-sync-delay", 0)
    await admin.config_set("protected-mode", "no")
    await admin.config_set("bind", "127.0.0.1")
    await admin.config_set("port", port)
    await follower.replicaof("127.0.0.1", str(port))
    assert await admin.wait(1, 30_000) == 1
    store = Store(connect(primary.url), replicas=1)
    await store.jobs.submit("kept", "me", "t", SPEC, ttl_s=60)
    assert await follower.exists("murmur:{q}:job:kept")
    monkeypatch.setattr(scripts, "CONFIRM_MS", 100)
    assert replica.pid
    os.kill(replica.pid, signal.SIGSTOP)
    with pytest.raises(StoreUnavailable, match="0 of 1 replicas confirmed"):
        await store.jobs.submit("unconfirmed", "me", "t", SPEC, ttl_s=60)
    os.kill(replica.pid, signal.SIGCONT)
    await store.jobs.submit("later", "me", "t", SPEC, ttl_s=60)
    for redis in (admin, follower):
        await redis.aclose()
    await store.close()


def reply(kind: Any, code: str, text: str) -> RedisError:
    """Error as redis-py makes it of a server's reply."""
    error: RedisError = kind(text, status_code=code)
    return error


@pytest.mark.parametrize(
    "error",
    [
        RedisConnectionError("Error 111 connecting to redis:6379."),
        RedisConnectionError("max number of clients reached"),
        ResponseError("ERR max number of clients + cluster connections reached"),
        MaxConnectionsError("Too many connections"),
        RedisTimeoutError("Timeout reading from socket"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        reply(OutOfMemoryError, "OOM", "command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:5."),
        reply(ReadOnlyError, "READONLY", "You can't write against a read only replica. script: 1, on @user_script:2."),
        ResponseError("Error running script (call to f_1): @user_script:9: -READONLY You can't write against a replica."),
        ResponseError("Error running script (call to f_1): @user_script:9: -OOM command not allowed"),
        ResponseError("Command # 1 (SET a b) of pipeline caused error: ('MISCONF Errors writing to the AOF file',)"),
        reply(ExecAbortError, "EXECABORT", "Transaction discarded because of: OOM command not allowed"),
        ResponseError("MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist to disk."),
        ResponseError("BUSY Valkey is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)"),
        reply(ClusterDownError, "CLUSTERDOWN", "Hash slot not served"),
        reply(MasterDownError, "MASTERDOWN", "Link with MASTER is down"),
        reply(MovedError, "MOVED", "11958 127.0.0.1:7001"),
        reply(AskError, "ASK", "11958 127.0.0.1:7001"),
        reply(TryAgainError, "TRYAGAIN", "Multiple keys request during rehashing of slot"),
        InvalidResponse("Protocol Error: b'HTTP/1.1 502 Bad Gateway'"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_trouble_of_a_server_is_away(error: RedisError) -> None:
    assert type(outage(error)) is StoreUnavailable


@pytest.mark.parametrize(
    "error",
    [
        reply(NoPermissionError, "NOPERM", "User worker has no permissions to run the 'evalsha' command"),
        reply(AuthenticationError, "NOAUTH", "Authentication required."),
        reply(AuthenticationError, "WRONGPASS", "invalid username-password pair or user is disabled."),
        ResponseError("DENIED Redis is running in protected mode because protected mode is enabled"),
        ResponseError("unknown command 'EVALSHA', with args beginning with: "),
        ResponseError("DB index is out of range"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_a_server_that_an_operator_must_mend_is_misconfigured(error: RedisError) -> None:
    assert type(outage(error)) is StoreMisconfigured


@pytest.mark.parametrize(
    "text",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "value is not an integer",
        "BUSYKEY Target exists",
    ],
)
def test_a_fault_of_the_service_is_no_outage(text: str) -> None:
    assert outage(ResponseError(text)) is None
