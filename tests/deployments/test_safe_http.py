"""Outgoing requests: what may be reached, and how what goes wrong is named. Nothing here leaves loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable, WorkError
from deployments.ingestion.safe_http import REDIRECTS, Allowed, GuardedBackend, SafeHttp, is_public
from tests.lib.web_server import WebServer, answer, redirect, serving


@pytest.fixture
async def site() -> AsyncIterator[WebServer]:
    async with serving() as site:
        yield site


async def fetch(url: str, *allow: str, limit: int = 1000, total_s: float = 20.0) -> bytes:
    async with SafeHttp(Allowed.parse(allow), total_s=total_s).get(url, limit) as body:
        return b"".join([chunk async for chunk in body])


LOCAL = "127.0.0.0/8"
AWAY = """
http://localhost:{port}/song //localhost:{port}/song http://127.0.0.2:{port}/song http://user@127.0.0.1:{port}/song
file:///etc/passwd ftp://127.0.0.1/song
"""
NO_SOURCES = """
http://user:word@127.0.0.1:{port}/song http://user@127.0.0.1:{port}/song http://:word@127.0.0.1:{port}/song
file:///etc/passwd ftp://127.0.0.1:{port}/song unix:///tmp/socket //127.0.0.1:{port}/song 127.0.0.1/song
http:// http:///song http://127.0.0.1:{port}/\0
"""
INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1
192.88.99.1 192.168.1.1 198.18.0.1 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 2001::1 2001:db8::1
2002:7f00:1:: 2002:808:808::1 ::127.0.0.1 ::ffff:0:7f00:1 5f00::1 4000::1
3fff::1 fc00::1 fd12:3456::1 fe80::1 fec0::1 ff02::1 ff0e::1 100::1
"""
OUTSIDE = """
1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 223.255.255.1
2606:4700::1111 2a00:1450:4001::8a ::ffff:8.8.8.8
"""


@pytest.mark.parametrize(
    "allow", ["127.0.0.1", "127.0.0.1:{port}", " 127.0.0.1 ", "127.0.0.0/8", "127.0.0.1/32", "127.0.0.1/8"]
)
async def test_a_private_source_that_is_allowed_is_read(site: WebServer, allow: str) -> None:
    assert await fetch(site.url(), allow.format(port=site.port)) == b"la la la"


@pytest.mark.parametrize("allow", ["nas.local", "NAS.local:{port}"])
async def test_a_private_source_is_allowed_by_its_name(site: WebServer, allow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["127.0.0.1"])
    assert await fetch(site.url(host="Nas.Local"), allow.format(port=site.port)) == b"la la la"


@pytest.mark.parametrize("allow", ["", "localhost", "127.0.0.1:1", "10.0.0.0/8", "127.0.0.2/32", "::1/128", "127.0.0"])
async def test_a_private_source_is_forbidden_otherwise(site: WebServer, allow: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(site.url(), allow)
    assert site.asked == []


@pytest.mark.parametrize("host", ["localhost", "2130706433", "0x7f.1", "127.1", "0", "[::1]", "[::ffff:127.0.0.1]"])
async def test_a_private_address_in_another_guise_is_forbidden(site: WebServer, host: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(site.url(host=host))
    assert site.asked == []


async def test_redirects_are_followed(site: WebServer) -> None:
    site.replies |= {"/1": redirect("/2"), "/2": redirect("../3"), "/3": redirect(site.url())}
    assert await fetch(site.url("/1"), LOCAL) == b"la la la"
    assert site.asked == ["/1", "/2", "/3", "/song"]


async def test_too_many_redirects_end(site: WebServer) -> None:
    site.replies["/round"] = redirect("/round")
    with pytest.raises(SourceUnreachable, match="redirects"):
        await fetch(site.url("/round"), LOCAL)
    assert len(site.asked) == REDIRECTS + 1


@pytest.mark.parametrize("to", AWAY.split())
async def test_a_redirect_passes_the_same_gate(site: WebServer, to: str) -> None:
    site.replies["/away"] = redirect(to.format(port=site.port))
    with pytest.raises(SourceForbidden):
        await fetch(site.url("/away"), "127.0.0.1")
    assert site.asked == ["/away"]


@pytest.mark.parametrize("to", ["http://[bad", "http://[::1", "//[x]y/", "http://127.0.0.1:99999/"])
async def test_a_redirect_to_no_address_is_named(site: WebServer, to: str) -> None:
    site.replies["/away"] = redirect(to)
    with pytest.raises((SourceForbidden, SourceUnreachable)):
        await fetch(site.url("/away"), LOCAL)


async def test_the_next_address_is_tried_where_one_does_not_answer(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    assert await fetch(site.url(host="nas.local"), "nas.local") == b"la la la"


@pytest.mark.parametrize("url", ["", *NO_SOURCES.split()])
async def test_only_plain_http_addresses_are_sources(site: WebServer, url: str) -> None:
    with pytest.raises(SourceForbidden):
        await fetch(url.format(port=site.port), LOCAL)
    assert site.asked == []


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, SourceNotFound) for status in (404, 410)),
        *((status, SourceForbidden) for status in (401, 403)),
        *((status, SourceUnreachable) for status in (204, 302, 400, 429, 500, 503)),
    ],
)
async def test_a_refusal_is_named(site: WebServer, status: int, error: type[WorkError]) -> None:
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


async def test_a_port_where_nobody_listens_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(SourceUnreachable):
            await fetch(f"http://127.0.0.1:{taken.getsockname()[1]}/", LOCAL)


async def test_a_source_that_takes_too_long_is_unreachable(site: WebServer) -> None:
    with pytest.raises(SourceUnreachable, match="too long"):
        await fetch(site.url("/silent"), LOCAL, total_s=0.3)


async def test_a_source_may_be_as_large_as_allowed(site: WebServer) -> None:
    assert await fetch(site.url(), LOCAL, limit=8) == b"la la la"
    with pytest.raises(SourceTooLarge):
        await fetch(site.url(), LOCAL, limit=7)


async def test_a_source_that_never_ends_is_left(site: WebServer) -> None:
    with pytest.raises(SourceTooLarge):
        await fetch(site.url("/endless"), LOCAL, limit=1 << 18)
    await asyncio.wait_for(site.left.wait(), 10.0)


async def test_a_proxy_of_the_environment_is_not_asked(site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert await fetch(site.url(), LOCAL) == b"la la la"


class SlowUpload(httpcore.AsyncNetworkBackend):
    """Keeps where it was sent, and connects to nothing."""

    def __init__(self) -> None:
        self.went: list[tuple[str, int]] = []

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        self.went.append((host, port))
        return httpcore.AsyncMockStream([])


def names(monkeypatch: pytest.MonkeyPatch, *answers: Iterable[str]) -> None:
    """Have the resolver give these addresses, one list a question."""
    left = iter(answers)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in next(left)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = SlowUpload()
    names(monkeypatch, ["93.184.215.14"], ["127.0.0.1"])
    await GuardedBackend(Allowed(), wire).connect_tcp("rebind.example", 443)
    assert wire.went == [("93.184.215.14", 443)]


@pytest.mark.parametrize("inside", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0"])
async def test_one_private_answer_forbids_a_name(monkeypatch: pytest.MonkeyPatch, inside: str) -> None:
    wire = SlowUpload()
    names(monkeypatch, ["93.184.215.14", inside])
    with pytest.raises(SourceForbidden):
        await GuardedBackend(Allowed(), wire).connect_tcp("mixed.example", 80)
    assert wire.went == []


async def test_an_odd_port_needs_leave() -> None:
    wire = SlowUpload()
    with pytest.raises(SourceForbidden, match="8080"):
        await GuardedBackend(Allowed(), wire).connect_tcp("93.184.215.14", 8080)
    await GuardedBackend(Allowed.parse(["93.184.215.14:8080"]), wire).connect_tcp("93.184.215.14", 8080)
    assert wire.went == [("93.184.215.14", 8080)]


async def test_a_name_that_is_not_known_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with pytest.raises(SourceUnreachable, match="resolved"):
        await fetch("http://nowhere.example/")


@pytest.mark.parametrize("address", INSIDE.split())
def test_what_leads_inside_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", OUTSIDE.split())
def test_what_anybody_can_reach_is_public(address: str) -> None:
    assert is_public(ip_address(address))
