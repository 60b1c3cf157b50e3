"""Outgoing requests: allowed addresses, limits and errors. Nothing here leaves loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable, WorkError
from deployments.ingestion import names
from deployments.ingestion.allow_list import AllowList, is_public
from deployments.ingestion.guarded_transport import GuardedBackend
from deployments.ingestion.safe_http import REDIRECTS, SafeHttp
from tests.lib.web_server import WebServer, answer, redirect, serving


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        yield site


async def fetch(url: str, *allow: str, limit: int = 1000, total_s: float = 20.0) -> bytes:
    async with SafeHttp(AllowList.parse(allow), total_s=total_s).get(url, limit) as body:
        return b"".join([chunk async for chunk in body])


LOCAL = "127.0.0.0/8"
FORBIDDEN_REDIRECTS = """
http://localhost:{port}/song //localhost:{port}/song http://127.0.0.2:{port}/song http://user@127.0.0.1:{port}/song
file:///etc/passwd ftp://127.0.0.1/song
"""
INVALID_SOURCES = """
http://user:word@127.0.0.1:{port}/song http://user@127.0.0.1:{port}/song http://:word@127.0.0.1:{port}/song
file:///etc/passwd ftp://127.0.0.1:{port}/song unix:///tmp/socket //127.0.0.1:{port}/song 127.0.0.1/song
http:// http:///song http://127.0.0.1:{port}/\0
"""
PRIVATE = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1
192.88.99.1 192.168.1.1 198.18.0.1 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2001::1 2001:db8::1
2002:7f00:1:: 2002:808:808::1 ::127.0.0.1 ::ffff:0:7f00:1 5f00::1 4000::1
3fff::1 fc00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1 ff0e::1 100::1
"""
PUBLIC = """
1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 223.255.255.1
2606:4700::1111 2a00:1450:4001::8a ::ffff:8.8.8.8
"""


@pytest.mark.parametrize(
    "allow", ["127.0.0.1", "127.0.0.1:{port}", " 127.0.0.1 ", "127.0.0.0/8", "127.0.0.1/32", "127.0.0.1/8"]
)
async def test_an_allowed_private_source_is_read(site: WebServer, allow: str) -> None:
    assert await fetch(site.url(), allow.format(port=site.port)) == b"la la la"


@pytest.mark.parametrize("allow", ["nas.local", "NAS.local:{port}"])
async def test_a_private_source_is_allowed_by_its_host_name(
    site: WebServer, allow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, ["127.0.0.1"])
    assert await fetch(site.url(host="Nas.Local"), allow.format(port=site.port)) == b"la la la"


@pytest.mark.parametrize("allow", ["", "localhost", "127.0.0.1:1", "10.0.0.0/8", "127.0.0.2/32", "::1/128", "127.0.0"])
async def test_a_private_source_is_forbidden_otherwise(site: WebServer, allow: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(site.url(), allow)
    assert site.paths == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_private_address_in_another_notation_is_forbidden(site: WebServer, host: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(site.url(host=host))
    assert site.paths == []


async def test_redirects_are_followed(site: WebServer) -> None:
    site.replies |= {"/1": redirect("/2"), "/2": redirect("../3"), "/3": redirect(site.url())}
    assert await fetch(site.url("/1"), LOCAL) == b"la la la"
    assert site.paths == ["/1", "/2", "/3", "/song"]


async def test_too_many_redirects_are_an_error(site: WebServer) -> None:
    site.replies["/round"] = redirect("/round")
    with pytest.raises(SourceUnreachable, match="redirects"):
        await fetch(site.url("/round"), LOCAL)
    assert len(site.paths) == REDIRECTS + 1


@pytest.mark.parametrize("to", FORBIDDEN_REDIRECTS.split())
async def test_redirects_are_checked_too(site: WebServer, to: str) -> None:
    site.replies["/away"] = redirect(to.format(port=site.port))
    with pytest.raises(SourceForbidden):
        await fetch(site.url("/away"), "127.0.0.1")
    assert site.paths == ["/away"]


@pytest.mark.parametrize("to", ["http://[bad", "http://[::1", "//[x]y/", "http://127.0.0.1:99999/"])
async def test_a_redirect_to_an_invalid_url_is_reported(site: WebServer, to: str) -> None:
    site.replies["/away"] = redirect(to)
    with pytest.raises((SourceForbidden, SourceUnreachable)):
        await fetch(site.url("/away"), LOCAL)


async def test_the_next_address_is_tried_if_one_does_not_connect(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert await fetch(site.url(host="nas.local"), "nas.local") == b"la la la"


@pytest.mark.parametrize("url", ["", *INVALID_SOURCES.split()])
async def test_only_http_urls_without_credentials_are_sources(site: WebServer, url: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(url.format(port=site.port), LOCAL)
    assert site.paths == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, SourceNotFound) for status in (404, 410)),
        *((status, SourceForbidden) for status in (401, 403)),
        *((status, SourceUnreachable) for status in (204, 302, 400, 429, 500, 503)),
    ],
)
async def test_an_error_status_is_reported(site: WebServer, status: int, error: type[WorkError]) -> None:
    site.replies["/song"] = answer(status, b"no")
    with pytest.raises(error, match=str(status)):
        await fetch(site.url(), LOCAL)


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="half a header"),
        pytest.param(b"220 mail.local ready\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nla la", id="half a body"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nla la\r\n", id="half of the chunks"),
    ],
)
async def test_a_source_that_breaks_off_is_unreachable(site: WebServer, sent: bytes) -> None:
    site.replies["/song"] = sent
    with pytest.raises(SourceUnreachable):
        await fetch(site.url(), LOCAL)


async def test_a_port_without_a_listener_is_unreachable() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(SourceUnreachable):
            await fetch(f"http://127.0.0.1:{bound.getsockname()[1]}/", LOCAL)


async def test_a_source_that_takes_too_long_is_unreachable(site: WebServer) -> None:
    with pytest.raises(SourceUnreachable, match="too long"):
        await fetch(site.url("/silent"), LOCAL, total_s=0.3)


async def test_a_source_may_be_as_large_as_allowed(site: WebServer) -> None:
    assert await fetch(site.url(), LOCAL, limit=8) == b"la la la"
    with pytest.raises(SourceTooLarge):
        await fetch(site.url(), LOCAL, limit=7)


async def test_an_endless_source_is_disconnected(site: WebServer) -> None:
    with pytest.raises(SourceTooLarge):
        await fetch(site.url("/endless"), LOCAL, limit=1 << 18)
    await asyncio.wait_for(site.closed.wait(), 10.0)


async def test_a_proxy_of_the_environment_is_not_used(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetch(site.url(), LOCAL) == b"la la la"


class RecordingBackend(httpcore.AsyncNetworkBackend):
    """Records addresses and connects to nothing."""

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.addresses.append((host, port))
        return httpcore.AsyncMockStream([])


def resolve_to(monkeypatch: pytest.MonkeyPatch, *answers: Iterable[str]) -> None:
    """Make the resolver return these addresses, one list per query."""
    remaining = iter(answers)

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(remaining)]

    monkeypatch.setattr(names, "getaddrinfo", getaddrinfo)


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = RecordingBackend()
    resolve_to(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    await GuardedBackend(AllowList(), backend).connect_tcp("rebind.example", 443)
    assert backend.addresses == [("93.184.215.14", 443)]


@pytest.mark.parametrize("private", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0"])
async def test_one_private_address_forbids_a_host_name(monkeypatch: pytest.MonkeyPatch, private: str) -> None:
    backend = RecordingBackend()
    resolve_to(monkeypatch, ["93.184.215.14", private])
    with pytest.raises(SourceForbidden):
        await GuardedBackend(AllowList(), backend).connect_tcp("mixed.example", 80)
    assert backend.addresses == []


async def test_other_ports_must_be_allowed() -> None:
    backend = RecordingBackend()
    with pytest.raises(SourceForbidden, match="8080"):
        await GuardedBackend(AllowList(), backend).connect_tcp("93.184.215.14", 8080)
    await GuardedBackend(AllowList.parse(["93.184.215.14:8080"]), backend).connect_tcp("93.184.215.14", 8080)
    assert backend.addresses == [("93.184.215.14", 8080)]


async def test_an_unknown_host_name_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(names, "getaddrinfo", getaddrinfo)
    with pytest.raises(SourceUnreachable, match="resolved"):
        await fetch("http://nowhere.example/")


@pytest.mark.parametrize("address", PRIVATE.split())
def test_a_private_address_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", PUBLIC.split())
def test_a_global_address_is_public(address: str) -> None:
    assert is_public(ip_address(address))


class Drip:
    """Server that sends a body piece by piece, at the test's command."""

    def __init__(self) -> None:
        self.pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while piece := await self.pieces.get():
            writer.write(piece)
            await writer.drain()
        writer.close()


@pytest.fixture
async def drip() -> AsyncIterator[Drip]:
    server = Drip()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server
        server.pieces.put_nowait(b"")


async def received(drip: Drip, piece: bytes, count: int, step_s: float) -> int:
    """Bytes received of so many pieces, `step_s` of waiting each by the client's clock."""
    now = 0.0
    size = 0
    http = SafeHttp(AllowList.parse([LOCAL]), min_rate=1000, clock=lambda: now)
    async with http.get(f"http://127.0.0.1:{drip.port}/", 1 << 20) as body:
        for _ in range(count):
            reading = asyncio.ensure_future(anext(body))
            await asyncio.sleep(0.01)
            now += step_s
            drip.pieces.put_nowait(piece)
            size += len(await reading)
            now += 1000  # the caller takes its time
    return size


async def test_a_source_that_drips_is_ended_and_not_retried(drip: Drip) -> None:
    with pytest.raises(SourceUnreachable, match="less than 1000 bytes a second, and is not tried again") as slow:
        await received(drip, b"x", 20, 10.0)
    assert not slow.value.transient
    assert slow.value.code == "source_unreachable"


async def test_a_source_at_the_lowest_rate_is_read_however_slowly_its_reader_takes_it(
    drip: Drip,
) -> None:
    assert await received(drip, bytes(10_000), 10, 10.0) == 100_000
