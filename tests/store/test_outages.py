"""Outages of a real Valkey: every call of the store raises StoreUnavailable, and nothing of redis-py."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from serve_app.errors import StoreUnavailable
from serve_app.local.valkey import Valkey
from serve_app.models.event import Progress
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import Claim, Commit
from serve_app.models.listing import JobQuery
from serve_app.store import connection, event_log
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

SPEC = JobSpec("base")
COMMIT = Commit(0, ('{"id":0}',), 1.0, None, "cpu", Progress(1.0, None, 1, None, None))


class Server:
    """A Valkey to stop, a client, and a running job."""

    def __init__(self, valkey: Valkey, redis: Redis) -> None:
        self.valkey = valkey
        self.redis = redis
        self.store = Store(redis)
        self.claim = Claim("", 0)

    async def begin(self) -> None:
        await self.store.jobs.submit("running", "me", "t", SPEC, ttl_s=60)
        await self.store.jobs.submit("queued", "me", "t", SPEC, ttl_s=60)
        claim = await self.store.leases.claim("worker")
        assert claim
        self.claim = claim

    def kill(self) -> None:
        assert self.valkey.pid
        os.kill(self.valkey.pid, signal.SIGKILL)
        self.valkey.stop()

    def calls(self) -> list[Awaitable[object]]:
        """Calls of every kind: scripts, single commands, pipelines, transactions."""
        store, keys, outbox = self.store, ApiKeys(self.redis), Outbox(self.redis)
        return [
            store.heartbeats.probe(),
            store.heartbeats.beat("worker"),
            store.heartbeats.runners_alive(),
            store.leases.claim("worker"),
            store.leases.commit(self.claim, COMMIT),
            store.leases.renew(self.claim),
            store.leases.finish(self.claim, Phase.COMPLETED),
            store.leases.give_back(self.claim),
            store.leases.set_weights({"t": 2.0}),
            store.leases.reap(),
            store.upkeep.expire(),
            store.events.read("running"),
            store.events.exists("running"),
            store.jobs.get("running"),
            store.jobs.get_many(["running", "queued"]),
            store.jobs.page("me", "t", limit=10),
            store.jobs.query("me", "t", "native", JobQuery()),
            store.jobs.submit("new", "me", "t", SPEC, ttl_s=60),
            store.summaries.take(1, 1.0),
            store.usage.take_token("t", 60),
            store.usage.pace_s("t"),
            store.stats.read(),
            keys.create("me", "t", ["admin"]),
            keys.list(),
            outbox.take(1, 1.0),
            outbox.page("me", "t", limit=10),
            outbox.secrets("t"),
        ]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    # The path of a socket holds 107 bytes; pytest's folders may be longer.
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:
        valkey = Valkey(tmp_path, Path(run_dir))
        valkey.start()
        redis = connect(valkey.url)
        server = Server(valkey, redis)
        await server.begin()
        yield server
        if valkey.pid:
            os.kill(valkey.pid, signal.SIGCONT)
        valkey.stop()
        await server.store.close()


async def listen(store: Store) -> None:
    """Subscribe until an error is raised."""
    async with store.events.subscribe("work") as messages:
        async for _ in messages:
            pass


async def outcomes(*calls: Awaitable[object]) -> set[type]:
    """Types of the errors that calls raise, or of what they return."""
    return {type(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)}


async def test_a_killed_server_raises_store_unavailable_in_calls_under_way_and_in_new_ones(server: Server) -> None:
    listening = asyncio.create_task(listen(server.store))
    await asyncio.sleep(0.2)  # until it is subscribed
    assert server.valkey.pid
    os.kill(server.valkey.pid, signal.SIGSTOP)
    under_way = [asyncio.ensure_future(call) for call in server.calls()]
    await asyncio.sleep(0.2)  # until they are sent
    server.kill()
    assert await outcomes(listening, *under_way) == {StoreUnavailable}
    assert await outcomes(listen(server.store), *server.calls()) == {StoreUnavailable}


async def test_a_suspended_server_raises_store_unavailable_and_is_used_again_when_it_resumes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REPLY_S", 0.5)
    assert server.valkey.pid
    os.kill(server.valkey.pid, signal.SIGSTOP)
    assert await outcomes(*server.calls()) == {StoreUnavailable}
    os.kill(server.valkey.pid, signal.SIGCONT)
    monkeypatch.setattr(connection, "REPLY_S", 20.0)
    assert StoreUnavailable not in await outcomes(*server.calls())


async def test_a_listener_reconnects_after_a_restart(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "RECONNECT_S", 0.02)
    connected, messages = asyncio.Event(), asyncio.Queue[tuple[str, str]]()
    listening = asyncio.create_task(
        server.store.events.listen(
            "work", on_message=lambda *message: messages.put_nowait(message), on_connect=connected.set
        )
    )
    await connected.wait()
    server.kill()
    assert await outcomes(server.store.heartbeats.probe()) == {StoreUnavailable}
    connected.clear()
    server.valkey.start()
    async with asyncio.timeout(30):
        # The client may reconnect by itself, without an error, before the listener notices.
        while messages.empty():
            await server.store.jobs.submit(os.urandom(8).hex(), "me", "t", SPEC, ttl_s=60)
            await asyncio.sleep(0.05)
    assert (await messages.get())[0] == "work"
    assert not listening.done()
    listening.cancel()
    await asyncio.wait([listening])


async def test_closing_a_store_during_an_outage_raises_nothing_of_redis(server: Server) -> None:
    server.kill()
    assert await outcomes(server.store.close()) <= {type(None), StoreUnavailable}
