"""SSRF: hostile URLs are refused without opening a connection."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpcore
import pytest

from deployments.errors import SourceForbidden, SourceUnreachable
from deployments.ingestion import guarded_transport, names
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.safe_http import SafeHttp
from tests.lib.web_server import WebServer, redirect, serving

LOOPBACK = """
127.0.0.1 127.0.0.2 127.1 127.0.1 127.255.255.254 0 0.0.0.0 0x7f000001 0x7f.1 0x7f.0.0.1 0x7f.0x0.0x0.0x1 2130706433
017700000001 0177.0.0.1 0177.0.0.01 localhost LOCALHOST localhost. [::1] [0:0:0:0:0:0:0:1] [::]
[::ffff:127.0.0.1] [::ffff:7f00:1] [::127.0.0.1] [::ffff:0:127.0.0.1] [::1%25lo] 127.0.0.1. 127。0。0。1 １２７.0.0.1
"""
METADATA = """
169.254.169.254 0xa9fea9fe 2852039166 0251.0376.0251.0376 169.254.43518 169.16689662 [::ffff:169.254.169.254]
[::ffff:a9fe:a9fe] [fe80::1] [fe80::1%25eth0] [fd00:ec2::254] 100.100.100.200 192.0.0.192
"""
PRIVATE = """
10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.254 192.168.0.1 100.64.0.1 192.0.0.8 192.0.2.1 198.18.0.1 198.51.100.1
203.0.113.1 192.88.99.1 240.0.0.1 255.255.255.255 [fc00::1] [fdff::1] [fec0::1] [2001:db8::1] [3fff::1] [100::1] [5f00::1]
"""
WRAPPED = "[64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [2002:7f00:1::] [2002:a9fe:a9fe::1] [2001:0:7f00:1::1]"
MULTICAST = "224.0.0.1 239.255.255.250 [ff02::1] [ff05::2] [ff0e::1]"
HOSTS = [*LOOPBACK.split(), *METADATA.split(), *PRIVATE.split(), *WRAPPED.split(), *MULTICAST.split()]
SCHEMES = """
file:///etc/passwd ftp://127.0.0.1/x gopher://127.0.0.1:6379/_INFO dict://127.0.0.1:11211/ unix:///var/run/docker.sock ldap://127.0.0.1/
jar:http://127.0.0.1!/ data:audio/wav;base64,AAAA javascript:alert(1) //127.0.0.1/x http:/// http:///x https:// 127.0.0.1/x
"""
CREDENTIALS = """
http://user:word@8.8.8.8/ http://user@8.8.8.8/ http://:word@8.8.8.8/ http://8.8.8.8@127.0.0.1/ http://127.0.0.1:80@8.8.8.8/
"""
PORTS = "http://8.8.8.8:22/ http://8.8.8.8:6379/ http://8.8.8.8:8080/ https://1.1.1.1:11211/ http://8.8.8.8:0/ http://8.8.8.8:99999/"
URLS = [*(f"http://{host}/x" for host in HOSTS), *SCHEMES.split(), *CREDENTIALS.split(), *PORTS.split()]


class RecordingBackend(httpcore.AsyncNetworkBackend):
    """Records addresses and connects to nothing."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.addresses.append(f"{host}:{port}")
        raise httpcore.ConnectError("no network here")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> RecordingBackend:
    network = RecordingBackend()
    guarded = guarded_transport.GuardedBackend
    monkeypatch.setattr(guarded_transport, "GuardedBackend", lambda allowed, _, *rest: guarded(allowed, network, *rest))
    return network


async def fetch(url: str, *allow: str) -> bytes:
    async with SafeHttp(AllowList.parse(allow)).get(url, 1000) as body:
        return b"".join([chunk async for chunk in body])


def test_there_are_many_hostile_urls() -> None:
    assert len(set(URLS)) >= 60


@pytest.mark.parametrize("url", URLS)
async def test_a_hostile_url_is_refused_without_a_connection(network: RecordingBackend, url: str) -> None:
    with pytest.raises((SourceForbidden, SourceUnreachable)) as caught:
        await fetch(url)
    # Some systems cannot resolve some of the notations, which is safe as well.
    unresolved = isinstance(caught.value, SourceUnreachable) and "resolved" in caught.value.message
    assert isinstance(caught.value, SourceForbidden) or unresolved
    assert network.addresses == []
    with pytest.raises((SourceForbidden, SourceUnreachable)):
        await SafeHttp(AllowList()).post(url, b"", {})
    assert network.addresses == []


@pytest.mark.parametrize(
    "url", ["http://8.8.8.8/x", "https://1.1.1.1/x", "http://[2606:4700::1111]/x", "http://1.1.1.1:443/x"]
)
async def test_a_public_url_is_connected_to(network: RecordingBackend, url: str) -> None:
    with pytest.raises(SourceUnreachable):
        await fetch(url)
    assert len(network.addresses) == 1


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        yield site


@pytest.mark.parametrize("to", [url for url in URLS if ":" in url.partition("//")[0] and ":///" not in url])
async def test_a_redirect_to_a_hostile_url_is_refused(site: WebServer, to: str) -> None:
    site.replies["/away"] = redirect(to.encode("ascii", "ignore").decode())
    with pytest.raises((SourceForbidden, SourceUnreachable)):
        await fetch(site.url("/away"), f"127.0.0.1:{site.port}")
    assert site.paths == ["/away"]


async def test_dns_rebinding_reaches_no_private_address(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that resolves to a public address first and to loopback later is resolved once per connection."""
    queries: list[str] = []

    def rebinding(host: str, port: int, **_: Any) -> Iterable[Any]:
        assert host == "rebind.example"
        queries.append(host)
        address = "192.0.2.7" if len(queries) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(names, "getaddrinfo", rebinding)
    for _ in range(3):
        with pytest.raises(SourceForbidden):
            await fetch(site.url(host="rebind.example"))
    assert site.paths == []


async def test_one_private_address_among_public_ones_is_refused(
    network: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(_: str, port: int, **__: Any) -> Iterable[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(names, "getaddrinfo", mixed)
    with pytest.raises(SourceForbidden):
        await fetch("http://mixed.example/")
    assert network.addresses == []
