"""HTTP transport that connects to checked addresses only, against SSRF and DNS rebinding."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore
import httpx

from deployments.errors import SourceForbidden
from deployments.ingestion.allow_list import PORTS, Address, AllowList, is_public
from deployments.ingestion.names import Resolver

# Timeout where the caller has none, and what a slow resolution leaves at least.
CONNECT_S, LEAST_CONNECT_S = 5.0, 1.0


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, checks every address, and connects to one of those."""

    def __init__(
        self, allowed: AllowList, inner: httpcore.AsyncNetworkBackend, resolver: Resolver | None = None, tenant: str = ""
    ) -> None:
        self._allowed = allowed
        self._inner = inner
        self._resolver = resolver or Resolver()
        self._tenant = tenant

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that can be reached; `timeout` includes the resolution of the name. Raises
        SourceForbidden, SourceUnreachable."""
        left_s = CONNECT_S if timeout is None else timeout
        began = time.monotonic()
        addresses = await self._resolver.resolve(host, port, self._tenant, left_s)
        if not self._allowed.has_host(host, port):
            for address in addresses:
                self._check(address, port)
        ends = max(began + left_s, time.monotonic() + LEAST_CONNECT_S)

        async def connect(address: Address, shares: int) -> httpcore.AsyncNetworkStream:
            # An address that does not answer leaves time for the others.
            share_s = max(ends - time.monotonic(), 0) / shares
            return await self._inner.connect_tcp(str(address), port, share_s, local_address, socket_options)

        for shares, address in zip(range(len(addresses), 1, -1), addresses, strict=False):
            with suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await connect(address, shares)
        return await connect(addresses[-1], 1)

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Raise SourceForbidden."""
        raise SourceForbidden("Sources are fetched over the network only.")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    def _check(self, address: Address, port: int) -> None:
        if self._allowed.has_address(address):
            return
        if not is_public(address):
            raise SourceForbidden(
                "The address is not a public one: use a public URL or name its host in MURMUR_FETCH_ALLOW."
            )
        if port not in PORTS:
            raise SourceForbidden(f"Only ports 80 and 443 are reached, not {port}.")


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx transport over an httpcore pool."""

    # httpx.AsyncHTTPTransport takes no network backend.

    def __init__(self, allowed: AllowList, tls: ssl.SSLContext, resolver: Resolver | None = None, tenant: str = "") -> None:
        backend = GuardedBackend(allowed, httpcore.AnyIOBackend(), resolver, tenant)
        self._pool = httpcore.AsyncConnectionPool(ssl_context=tls, network_backend=backend)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request. Raises httpx.TransportError."""
        url = request.url
        outgoing = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _as_httpx_errors():
            response = await self._pool.handle_async_request(outgoing)
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response), extensions=response.extensions
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with _as_httpx_errors():
            await self._response.aclose()


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    # httpx has an error of the same name for each of httpcore's.
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.UnsupportedProtocol) as error:
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error
