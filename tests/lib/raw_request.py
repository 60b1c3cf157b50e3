"""Requests that are sent piece by piece: the head alone, a part of the body, nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from tests.lib.slow_upload import SlowUpload


async def captured(client: httpx.AsyncClient, send: Callable[[httpx.AsyncClient], Awaitable[object]]) -> httpx.Request:
    """The request that `send` would make with a client, with its whole body."""
    requests: list[httpx.Request] = []

    async def keep(request: httpx.Request) -> httpx.Response:
        await request.aread()
        requests.append(request)
        return httpx.Response(202, json={})

    async with httpx.AsyncClient(
        transport=httpx.MockTransport(keep), base_url=client.base_url, headers=client.headers
    ) as capturing:
        await send(capturing)
    return requests[0]


def up_to_the_file(request: httpx.Request) -> bytes:
    """The body of a form up to the first byte of its file."""
    body = request.content
    return body[: body.index(b"\r\n\r\n", body.index(b"filename=")) + 4]


@asynccontextmanager
async def opened(request: httpx.Request, **headers: str) -> AsyncIterator[SlowUpload]:
    """Send the head of a request, with other headers in place of its own."""
    reader, writer = await asyncio.open_connection(request.url.host, request.url.port)
    own = {name.title(): value for name, value in request.headers.items()}
    lines = [f"{name}: {value}" for name, value in (own | {n.replace("_", "-"): v for n, v in headers.items()}).items()]
    writer.write("\r\n".join([f"{request.method} {request.url.raw_path.decode()} HTTP/1.1", *lines, "", ""]).encode())
    try:
        yield SlowUpload(reader, writer)
    finally:
        writer.close()
