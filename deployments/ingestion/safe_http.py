"""HTTP client for URLs that users give: fetches sources and posts webhooks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import httpx

from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceTooSlow, SourceUnreachable
from deployments.health import Clock
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.guarded_transport import GuardedTransport
from deployments.ingestion.names import Resolver
from deployments.ingestion.url_rules import url_fault

REDIRECTS = 3  # followed at most
RESUMES = 3  # of an interrupted download, at most
HEADERS_S = 60.0  # until the headers of the response, redirects included
RATE_WINDOW_S = 60.0  # over which the rate of a download is measured


@dataclass(frozen=True, slots=True)
class HttpReply:
    """Response to a POST."""

    status: int
    retry_after: str | None = None  # Retry-After header


class SafeHttp:
    """Client with an allow-list; redirects are checked too, bytes and time are limited."""

    def __init__(
        self, allowed: AllowList, *, min_rate: int = 0, total_s: float = 3600.0, clock: Clock = time.monotonic
    ) -> None:
        self._allowed = allowed
        self._min_rate = min_rate  # bytes per second
        self._total_s = total_s  # of a download without a lowest rate
        self._clock = clock
        self._resolver = Resolver()
        self._tls = httpx.create_ssl_context(trust_env=False)  # slow to create, so it is shared

    @asynccontextmanager
    async def get(
        self, url: str, max_bytes: int, user_agent: str | None = None, tenant: str = ""
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Stream a response body; an interrupted download is resumed. Raises SourceForbidden, SourceNotFound,
        SourceTooLarge, SourceTooSlow, SourceUnreachable, also while chunks are read."""
        try:
            async with self._client(user_agent, tenant) as client:
                async with asyncio.timeout(min(self._total_s, HEADERS_S)):
                    response = await self._follow(client, url)
                # A lowest rate bounds the time as well, and does not count the time that storage takes.
                async with (
                    asyncio.timeout(None if self._min_rate else self._total_s),
                    aclosing(self._body(client, response, max_bytes)) as body,
                ):
                    yield body
        except TimeoutError:
            raise SourceUnreachable("The source took too long to send: try again, or upload the file.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise SourceForbidden("The source's URL must be http or https with a host.") from None
        except httpx.TransportError:
            raise SourceUnreachable("The source could not be reached, or broke off: try again, or upload it.") from None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, within_s: float = 20.0, tenant: str = ""
    ) -> HttpReply:
        """Post a body; follows no redirects, reads no response body. Raises SourceForbidden, SourceUnreachable."""
        try:
            async with asyncio.timeout(within_s), self._client(None, tenant) as client:
                _check_url(httpx.URL(url))
                response = await client.send(
                    client.build_request("POST", url, content=body, headers=dict(headers)), stream=True
                )
                try:
                    return HttpReply(response.status_code, response.headers.get("retry-after"))
                finally:
                    await response.aclose()
        except TimeoutError:
            raise SourceUnreachable(f"There was no answer within {within_s:g} s.") from None
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise SourceForbidden("The URL must be http or https with a host.") from None
        except httpx.TransportError as error:
            raise SourceUnreachable(f"The address could not be reached ({type(error).__name__}).") from None

    def _client(self, user_agent: str | None, tenant: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=GuardedTransport(self._allowed, self._tls, self._resolver, tenant),
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
        received = resumes = 0
        # Only a strong validator proves that the bytes are still the same (RFC 9110, section 13.1.5).
        tag = response.headers.get("etag", "")
        validator = "" if tag.startswith("W/") else tag
        total = int(response.headers.get("content-length", 0))
        rate = _Rate(self._min_rate, self._clock)
        while True:
            try:
                # Raw chunks: bytes that httpx buffers for a fixed chunk size are lost with the connection.
                async for chunk in rate.checked(response.aiter_raw()):
                    received += len(chunk)
                    if received > max_bytes:
                        raise SourceTooLarge(f"The source is larger than the {max_bytes} bytes allowed: split it.")
                    yield chunk
                if received >= total:  # a 206 response may hold less than the requested range
                    return
            except httpx.TransportError:
                if not validator or not received:
                    raise
            finally:
                await response.aclose()
            resumes += 1
            if resumes > RESUMES:
                raise SourceUnreachable("The source breaks off again and again: try again, or upload it.")
            headers = {"Range": f"bytes={received}-", "If-Range": validator}
            response = await client.send(client.build_request("GET", response.url, headers=headers), stream=True)
            if response.status_code != 206 or not response.headers.get("content-range", "").startswith(f"bytes {received}-"):
                await response.aclose()
                raise SourceUnreachable("The source broke off, and cannot go on from there: try again, or upload it.")


class _Rate:
    """Rate at which a source sends; the time between two reads, which is ours, does not count."""

    def __init__(self, least: int, clock: Clock) -> None:
        self._least = least
        self._clock = clock
        self._waited_s = 0.0
        self._received = 0

    async def checked(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Pass chunks on. Raises SourceTooSlow."""
        began = self._clock()
        async for chunk in chunks:
            self._waited_s += self._clock() - began
            self._received += len(chunk)
            if self._waited_s >= RATE_WINDOW_S:
                if self._received < self._least * self._waited_s:
                    raise SourceTooSlow(
                        f"The source sends less than {self._least} bytes a second, and is not tried again: upload the file."
                    )
                self._waited_s, self._received = 0.0, 0
            yield chunk
            began = self._clock()


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
