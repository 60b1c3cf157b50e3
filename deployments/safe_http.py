"""Outgoing requests to addresses that users give: a name is resolved once, every answer is checked, and the connection
goes to the address that was checked. Redirects pass the same gate; bytes and time are capped while they stream."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore
import httpx

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable

Address = IPv4Address | IPv6Address

PORTS = (80, 443)
REDIRECTS = 3
CHUNK = 1 << 16
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
    """Hosts, host:port pairs and networks that may be reached although they are private, or on an odd port."""

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
        networks = (entry for entry in self.entries if "/" in entry)
        return any(address in ip_network(network, strict=False) for network in networks)


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
                    raise SourceForbidden("The source's address is not a public one: give a URL that anybody can reach.")
                if port not in PORTS:
                    raise SourceForbidden(f"Sources are fetched from ports 80 and 443 only, not from {port}.")
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


class SafeHttp:
    """A client for one purpose: reading what a user's URL names."""

    def __init__(self, allowed: Allowed, *, total_s: float = 3600.0) -> None:
        self._allowed = allowed
        self._total_s = total_s

    @asynccontextmanager
    async def get(self, url: str, max_bytes: int) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of `url`, in chunks as they come. Raises SourceForbidden, SourceNotFound, SourceTooLarge,
        SourceUnreachable, also while the chunks are read."""
        try:
            async with asyncio.timeout(self._total_s), self._client() as client:
                response = await self._follow(client, url)
                try:
                    yield self._body(response, max_bytes)
                finally:
                    await response.aclose()
        except TimeoutError:
            raise SourceUnreachable("The source took too long to send: try again, or upload the file.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise SourceForbidden("The source's URL must be http or https with a host.") from None
        except httpx.TransportError:
            raise SourceUnreachable("The source could not be reached, or broke off: try again, or upload it.") from None

    def _client(self) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(trust_env=False)
        pool = transport._pool
        pool._network_backend = GuardedBackend(self._allowed, pool._network_backend)
        return httpx.AsyncClient(
            transport=transport,
            trust_env=False,
            timeout=httpx.Timeout(20.0, connect=5.0),
            headers={"Accept-Encoding": "identity", "User-Agent": "murmuration"},
        )

    async def _follow(self, client: httpx.AsyncClient, url: str) -> httpx.Response:
        for _ in range(REDIRECTS + 1):
            if (httpx.URL(url).port or 80) > 65535:
                raise SourceForbidden("The source's URL names a port that there is none of.")
            if httpx.URL(url).userinfo:
                raise SourceForbidden("The source's URL must not carry credentials.")
            response = await client.send(client.build_request("GET", url), stream=True)
            if not response.has_redirect_location:
                _check_status(response.status_code)
                return response
            await response.aclose()
            url = str(response.url.join(response.headers["location"]))
        raise SourceUnreachable(f"The source redirects more than {REDIRECTS} times.")

    @staticmethod
    async def _body(response: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
        received = 0
        async for chunk in response.aiter_raw(CHUNK):
            received += len(chunk)
            if received > max_bytes:
                raise SourceTooLarge(f"The source is larger than the {max_bytes} bytes allowed: split it.")
            yield chunk


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
        if "/" in entry:
            ip_network(entry.strip(), strict=False)
