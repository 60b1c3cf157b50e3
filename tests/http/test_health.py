"""Readiness: each part is proven, a red one is named, and probes are bounded in number and time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from redis import Redis

from deployments.storage.artifacts import Artifacts
from serve_app.http import health
from serve_app.http.health import CachedProbe, Readings, add_health, free_bytes
from serve_app.local.valkey import Valkey
from serve_app.store import heartbeats
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.murmur_process import valkey_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Valkey]:
    """Valkey of its own, to be put into trouble."""
    with valkey_server(tmp_path / "server") as server:
        yield server


@asynccontextmanager
async def service(
    server: Valkey, artifacts: Artifacts, devices: dict[str, str] | None = None, min_free_bytes: int = 0
) -> AsyncIterator[tuple[httpx.AsyncClient, Store]]:
    """Client of an application that has only its health, which keeps no result."""
    api, store = FastAPI(), Store(connect(server.url))
    loaded = {"base": "cpu int8"} if devices is None else devices
    ticks = iter(range(0, 100_000, 60))
    readings = Readings(store, artifacts, loaded, min_free_bytes, clock=lambda: float(next(ticks)))
    add_health(api, readings, "0", loaded, "Service")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test") as http:
        yield http, store
    await store.close()


def wrong(response: httpx.Response) -> dict[str, str]:
    """Parts that are red, and why."""
    body = response.json()
    states = {part: state for part, state in body.items() if part != "status" and state != "ok"}
    assert (response.status_code, body["status"]) == ((503, "unready") if states else (200, "ready"))
    assert ("Retry-After" in response.headers) == bool(states)
    return states


async def test_a_service_whose_parts_all_work_is_ready(server: Valkey, artifacts: Artifacts) -> None:
    async with service(server, artifacts) as (http, store):
        await store.heartbeats.beat("runner-1")
        assert wrong(await http.get("/readyz")) == {}


async def test_a_service_without_a_runner_or_a_model_is_not_ready(server: Valkey, artifacts: Artifacts) -> None:
    async with service(server, artifacts, devices={}) as (http, store):
        red = wrong(await http.get("/readyz"))
        assert red == {"runner": "no Runner is alive: jobs wait", "model": "no Transcriber has answered yet"}
        await store.heartbeats.beat("runner-1")
        assert set(wrong(await http.get("/readyz"))) == {"model"}
        await store.heartbeats.leave("runner-1")
        assert set(wrong(await http.get("/readyz"))) == {"runner", "model"}


async def test_a_runner_that_has_gone_silent_is_not_alive(
    server: Valkey, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(server, artifacts) as (http, store):
        await store.heartbeats.beat("runner-1")
        monkeypatch.setattr(heartbeats, "SILENT_S", -1.0)
        assert set(wrong(await http.get("/readyz"))) == {"runner"}


async def test_a_redis_that_takes_no_write_is_red_although_it_answers_pings(server: Valkey, artifacts: Artifacts) -> None:
    async with service(server, artifacts) as (http, store):
        await store.heartbeats.beat("runner-1")
        with Redis.from_url(server.url) as admin:
            admin.config_set("maxmemory", 1)
            assert "raise maxmemory" in wrong(await http.get("/readyz"))["redis"]
            admin.config_set("maxmemory", 0)
            admin.replicaof("127.0.0.1", "9")
            assert "replica" in wrong(await http.get("/readyz"))["redis"]
        server.stop()
        red = wrong(await http.get("/readyz"))
        assert red["redis"] == "Redis cannot be reached"
        assert server.url.removeprefix("unix://") not in str(red)


async def test_a_storage_that_fails_is_red(server: Valkey, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(key: str) -> None:
        raise OSError("S3 answered 503")

    monkeypatch.setattr(artifacts, "size", fail)
    async with service(server, artifacts) as (http, store):
        await store.heartbeats.beat("runner-1")
        assert wrong(await http.get("/readyz")) == {"storage": "cannot be reached (OSError)"}


async def test_a_storage_that_hangs_is_red_and_costs_one_thread(
    server: Valkey, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)
    released, calls = threading.Event(), []

    def hang(key: str) -> None:
        calls.append(key)
        released.wait()

    monkeypatch.setattr(artifacts, "size", hang)
    async with service(server, artifacts) as (http, store):
        await store.heartbeats.beat("runner-1")
        for _ in range(5):
            assert "no answer in" in wrong(await http.get("/readyz"))["storage"]
        assert len(calls) == 1
        released.set()


async def test_a_disk_without_room_is_red(server: Valkey, artifacts: Artifacts) -> None:
    async with service(server, artifacts, min_free_bytes=1 << 60) as (http, store):
        await store.heartbeats.beat("runner-1")
        red = wrong(await http.get("/readyz"))
        assert set(red) == {"disk"}
        assert "MURMUR_MIN_FREE_BYTES" in red["disk"]


def test_only_a_local_storage_has_an_end() -> None:
    assert free_bytes("s3://bucket/prefix") is None
    assert free_bytes("file:///nowhere/yet") > 0  # type: ignore[operator]


async def test_many_probes_make_one_call_until_its_result_is_old() -> None:
    now, calls = 0.0, 0

    async def probe() -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return str(calls)

    cached = CachedProbe(probe, 1.0, clock=lambda: now)
    assert await asyncio.gather(*(cached.state() for _ in range(50))) == ["1"] * 50
    now = 0.9
    assert await cached.state() == "1"
    now = 1.1
    assert await cached.state() == "2"


async def test_a_probe_that_failed_is_made_again() -> None:
    replies = iter([ValueError("broken"), "ok"])

    async def probe() -> str:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return str(reply)

    cached = CachedProbe(probe, 1.0)
    with pytest.raises(ValueError, match="broken"):
        await cached.state()
    assert await cached.state() == "ok"
