"""Names of hosts are resolved in bounded time, and those that hang hold up no others."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from threading import Event, Semaphore
from typing import Any

import httpcore
import pytest

from deployments.errors import SourceUnreachable
from deployments.ingestion import guarded_transport, names
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.names import TENANT_LOOKUPS, Resolver
from deployments.ingestion.safe_http import SafeHttp
from deployments.ingestion.stage import Ingestion
from deployments.messages import FetchRequest
from deployments.storage.artifacts import Artifacts
from tests.lib.web_server import WebServer, serving


class Dns:
    """Resolver of the system, whose answers for *.slow.test come when the test ends."""

    def __init__(self) -> None:
        self.end = Event()
        self.hanging = 0
        self.hangs = Semaphore(0)  # released by each

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        if host.endswith(".slow.test"):
            self.hanging += 1
            self.hangs.release()
            self.end.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


@pytest.fixture(autouse=True)
def dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Dns]:
    dns = Dns()
    monkeypatch.setattr(names, "getaddrinfo", dns.getaddrinfo)
    yield dns
    dns.end.set()


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        yield site


async def until_hanging(dns: Dns, count: int) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(dns.hangs.acquire, timeout=10)


@pytest.mark.parametrize(("tenant", "hanging"), [("mine", 24), ("another", 200)])
async def test_a_download_does_not_wait_for_names_that_hang(
    site: WebServer, artifacts: Artifacts, dns: Dns, tenant: str, hanging: int
) -> None:
    allowed = AllowList.parse(["127.0.0.0/8"])
    ingestion = Ingestion(artifacts, SafeHttp(allowed), Buckets(allowed))

    async def fetch(host: str, tenant: str, key: str) -> None:
        await ingestion.fetch(FetchRequest(site.url(host=host), key, 1000, tenant=tenant))

    slow = [asyncio.create_task(fetch(f"{n}.slow.test", tenant, f"jobs/{n}/source")) for n in range(hanging)]
    await until_hanging(dns, min(hanging, TENANT_LOOKUPS))
    await fetch("good.test", "mine", "jobs/good/source")
    assert artifacts.read("jobs/good/source") == b"la la la"
    assert not any(task.done() for task in slow)
    assert dns.hanging <= TENANT_LOOKUPS
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_a_name_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LOOKUP_S", 0.05)
    with pytest.raises(SourceUnreachable, match="too long to resolve") as slow:
        await Resolver().resolve("1.slow.test", 80)
    assert slow.value.transient


async def test_a_lookup_that_was_given_up_holds_its_thread_until_it_ends(dns: Dns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "LOOKUP_S", 0.05)
    monkeypatch.setattr(names, "TENANT_LOOKUPS", 1)
    resolver = Resolver()
    for name in ("1.slow.test", "good.test"):
        with pytest.raises(SourceUnreachable):
            await resolver.resolve(name, 80, "mine")
    assert [str(address) for address in await resolver.resolve("good.test", 80, "another")] == ["127.0.0.1"]
    dns.end.set()
    monkeypatch.setattr(names, "LOOKUP_S", 5.0)
    assert [str(address) for address in await resolver.resolve("good.test", 80, "mine")] == ["127.0.0.1"]


async def test_an_address_needs_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any, **__: Any) -> list[Any]:
        raise AssertionError("looked up")

    monkeypatch.setattr(names, "getaddrinfo", never)
    assert [str(address) for address in await Resolver().resolve("fe80::1%eth0", 80)] == ["fe80::1"]


async def test_resolving_and_connecting_share_one_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float] = []

    class Network(httpcore.AsyncNetworkBackend):
        async def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> Any:
            timeouts.append(timeout or 0.0)
            raise httpcore.ConnectTimeout

    def two(_: str, port: int, **__: Any) -> list[Any]:
        time.sleep(0.2)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "1.1.1.1")]

    monkeypatch.setattr(names, "getaddrinfo", two)
    with pytest.raises(httpcore.ConnectTimeout):
        await guarded_transport.GuardedBackend(AllowList(), Network()).connect_tcp("two.test", 80, 3.0)
    assert len(timeouts) == 2
    assert timeouts[0] < 1.41
    assert timeouts[1] <= 2.81
