"""Outgoing requests to addresses that users give: a name is resolved once, every answer is checked, and the connection
goes to the address that was checked. Redirects pass the same gate; bytes and time are capped while they stream."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore
import httpx

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable
from deployments.ingestion.url_rules import url_fault

Address = IPv4Address | IPv6Address

PORTS = (80, 443)
REDIRECTS = 3
RESUMES = 3
DENIED = tuple(
    ip_network(block)
    for block in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "224.0.0.0/4",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
        "3fff::/20",
        "fec0::/10",
        "ff00::/8",
    )
)
"""Blocks that `ipaddress` calls global in some Python, and that lead inside all the same: translations of v4, multicast."""


UNICAST = ip_network("2000::/3")
"""All of v6 that is given out for global use; the rest holds old ways of writing v4 (::127.0.0.1) and the unassigned."""


def is_public(address: Address) -> bool:
    """Whether an address is one that anybody may be sent to."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return is_public(address.ipv4_mapped)
    if isinstance(address, IPv6Address) and address not in UNICAST:
        return False
    return address.is_global and not any(address in block for block in DENIED)


@dataclass(frozen=True, slots=True)
class Allowed:
    """Hosts, host:port pairs and networks that may be reached although they are private, or on an odd port; buckets that
    may be read."""

    entries: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, entries: Iterable[str]) -> Allowed:
        """From the setting's list."""
        return cls(frozenset(entry.strip().lower() for entry in entries if entry.strip()))

    def names(self, host: str, port: int) -> bool:
        """Whether this host is named, with or without its port."""
        shown = f"[{host}]" if ":" in host else host
        return not {host.lower(), shown.lower(), f"{shown}:{port}".lower()}.isdisjoint(self.entries)

    def covers(self, address: Address) -> bool:
        """Whether a named network holds this address."""
        networks = (entry for entry in self.entries if "/" in entry and not entry.startswith("s3://"))
        return any(address in ip_network(network, strict=False) for network in networks)

    def bucket(self, name: str) -> bool:
        """Whether objects of this bucket may be read."""
        return f"s3://{name}".lower() in self.entries


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only."""

    def __init__(self, allowed: Allowed, inner: httpcore.AsyncNetworkBackend) -> None:
        self._allowed = allowed
        self._inner = inner

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check every answer, connect to the first that can be reached. SourceForbidden, SourceUnreachable."""
        addresses = await self._resolve(host, port)
        named = self._allowed.names(host, port)
        for address in addresses:
            if not named and not self._allowed.covers(address):
                if not is_public(address):
                    raise SourceForbidden("The address is not a public one: give a URL that anybody can reach.")
                if port not in PORTS:
                    raise SourceForbidden(f"Only ports 80 and 443 are reached, not {port}.")
        for address in addresses[:-1]:
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._inner.connect_tcp(str(address), port, timeout, local_address, socket_options)
        return await self._inner.connect_tcp(str(addresses[-1]), port, timeout, local_address, socket_options)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise SourceForbidden("Sources are fetched over the network only.")

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await self._inner.sleep(seconds)

    @staticmethod
    async def _resolve(host: str, port: int) -> list[Address]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise SourceUnreachable("The source's host name could not be resolved: check the URL.") from None
        # An address may carry a scope (fe80::1%eth0) that the number itself does not need.
        return [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a hook answered: its status, and its Retry-After where it sent one."""

    status: int
    retry_after: str | None = None


class SafeHttp:
    """A client for what users' URLs name: sources to read, hooks to tell."""

    def __init__(self, allowed: Allowed, *, total_s: float = 3600.0) -> None:
        self._allowed = allowed
        self._total_s = total_s
        self._tls = httpx.create_ssl_context(trust_env=False)  # takes longer than many a request

    @asynccontextmanager
    async def get(self, url: str, max_bytes: int, user_agent: str | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of `url`, in chunks as they come; where the connection is cut and the server can go on from there, it
        does. Raises SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable, also while the chunks are read."""
        try:
            async with asyncio.timeout(self._total_s), self._client(user_agent) as client:
                response = await self._follow(client, url)
                async with aclosing(self._body(client, response, max_bytes)) as body:
                    yield body
        except TimeoutError:
            raise SourceUnreachable("The source took too long to send: try again, or upload the file.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise SourceForbidden("The source's URL must be http or https with a host.") from None
        except httpx.TransportError:
            raise SourceUnreachable("The source could not be reached, or broke off: try again, or upload it.") from None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, within_s: float = 20.0) -> Reply:
        """Send a body and read no more of the answer than its beginning; redirects are answers like any other. Raises
        SourceForbidden, SourceUnreachable."""
        try:
            async with asyncio.timeout(within_s), self._client(None) as client:
                _check_url(httpx.URL(url))
                response = await client.send(
                    client.build_request("POST", url, content=body, headers=dict(headers)), stream=True
                )
                try:
                    return Reply(response.status_code, response.headers.get("retry-after"))
                finally:
                    await response.aclose()
        except TimeoutError:
            raise SourceUnreachable(f"There was no answer within {within_s:g} s.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise SourceForbidden("The URL must be http or https with a host.") from None
        except httpx.TransportError as error:
            raise SourceUnreachable(f"The address could not be reached ({type(error).__name__}).") from None

    def _client(self, user_agent: str | None) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(trust_env=False, verify=self._tls)
        pool = transport._pool
        pool._network_backend = GuardedBackend(self._allowed, pool._network_backend)
        return httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(20.0, connect=5.0),
            headers={"Accept-Encoding": "identity", "User-Agent": user_agent or "murmuration"},
        )

    async def _follow(self, client: httpx.AsyncClient, url: str) -> httpx.Response:
        for _ in range(REDIRECTS + 1):
            _check_url(httpx.URL(url))
            response = await client.send(client.build_request("GET", url), stream=True)
            if not response.has_redirect_location:
                if response.status_code != 200:
                    await response.aclose()
                _check_status(response.status_code)
                return response
            await response.aclose()
            url = str(response.url.join(response.headers["location"]))
        raise SourceUnreachable(f"The source redirects more than {REDIRECTS} times.")

    async def _body(
        self, client: httpx.AsyncClient, response: httpx.Response, max_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        received = cuts = 0
        # A strong validator alone says that it is still the same, byte for byte (RFC 9110, section 13.1.5).
        tag = response.headers.get("etag", "")
        validator = "" if tag.startswith("W/") else tag
        total = int(response.headers.get("content-length", 0))
        while True:
            try:
                # As it comes: what httpx gathers for a chunk of a given size is lost where the connection is.
                async for chunk in response.aiter_raw():
                    received += len(chunk)
                    if received > max_bytes:
                        raise SourceTooLarge(f"The source is larger than the {max_bytes} bytes allowed: split it.")
                    yield chunk
                if received >= total:  # a part may be shorter than what was asked for
                    return
            except httpx.TransportError:
                if not validator or not received:
                    raise
            finally:
                await response.aclose()
            cuts += 1
            if cuts > RESUMES:
                raise SourceUnreachable("The source breaks off again and again: try again, or upload it.")
            wanted = {"Range": f"bytes={received}-", "If-Range": validator}
            response = await client.send(client.build_request("GET", response.url, headers=wanted), stream=True)
            if response.status_code != 206 or not response.headers.get("content-range", "").startswith(f"bytes {received}-"):
                await response.aclose()
                raise SourceUnreachable("The source broke off, and cannot go on from there: try again, or upload it.")


def _check_url(url: httpx.URL) -> None:
    if url.port is not None and not 0 < url.port < 65536:
        raise SourceForbidden("The URL names a port that there is none of.")
    if fault := url_fault(str(url)):
        raise SourceForbidden(fault.message)


def _check_status(status: int) -> None:
    if status in (404, 410):
        raise SourceNotFound(f"The source's server says that there is no such file ({status}).")
    if status in (401, 403):
        raise SourceForbidden(f"The source's server refuses access ({status}): give a URL that needs no login.")
    if status != 200:
        raise SourceUnreachable(f"The source's server answered {status}: try again later.")


def networks_ok(entries: Iterable[str]) -> None:
    """Raise ValueError for an entry of the setting that is meant as a network and is none."""
    for entry in entries:
        if "/" in entry and not entry.startswith("s3://"):
            ip_network(entry.strip(), strict=False)
