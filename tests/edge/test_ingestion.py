"""A URL becomes a stored source, once, or nothing."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from deployments.artifacts import Artifacts
from deployments.errors import SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnreachable, WorkError
from deployments.ingestion import Ingestion
from deployments.messages import FetchRequest, StoredSource
from deployments.safe_http import Allowed, SafeHttp

KEY = "jobs/j1/source"
SONG = bytes(range(256)) * 1000


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def redirect(to: str) -> bytes:
    return answer(302, b"", f"Location: {to}")


class Site:
    """A server on loopback: it sends a path's bytes as they are, then hangs up. `/silent` never answers, `/endless` never
    ends."""

    def __init__(self) -> None:
        self.replies = {"/song": answer(200, b"la la la")}
        self.asked: list[str] = []
        self.left = asyncio.Event()
        self.port = 0

    def url(self, path: str = "/song", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.asked.append(path)
        with suppress(ConnectionError):
            if path == "/silent":
                await reader.read()
            elif path == "/endless":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    writer.write(bytes(1 << 14))
                    await writer.drain()
            else:
                writer.write(self.replies.get(path, answer(404)))
                await writer.drain()
        self.left.set()
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[Site]:
    """A site, up and with a port."""
    site = Site()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        site.replies["/song"] = answer(200, SONG)
        yield site


@pytest.fixture
def ingestion(artifacts: Artifacts) -> Ingestion:
    return Ingestion(artifacts, SafeHttp(Allowed.parse(["127.0.0.1"])))


def wanted(site: Site, path: str = "/song", limit: int = 1 << 20) -> FetchRequest:
    return FetchRequest(site.url(path), KEY, limit)


async def test_a_fetched_source_is_stored_and_known_by_its_digest(
    site: Site, ingestion: Ingestion, artifacts: Artifacts
) -> None:
    stored = await ingestion.fetch(wanted(site))
    assert stored == StoredSource(KEY, len(SONG), hashlib.sha256(SONG).hexdigest())
    assert artifacts.read(KEY) == SONG
    assert artifacts.keys("jobs") == [KEY]


async def test_a_stored_source_is_not_fetched_again(site: Site, ingestion: Ingestion) -> None:
    first = await ingestion.fetch(wanted(site))
    assert await ingestion.fetch(wanted(site)) == first
    assert site.asked == ["/song"]


async def test_an_upload_is_not_fetched_at_all(site: Site, ingestion: Ingestion, artifacts: Artifacts) -> None:
    artifacts.put(KEY, b"uploaded")
    stored = await ingestion.fetch(wanted(site))
    assert stored == StoredSource(KEY, 8, hashlib.sha256(b"uploaded").hexdigest())
    assert site.asked == []


async def test_an_empty_source_is_stored_empty(site: Site, ingestion: Ingestion) -> None:
    site.replies["/song"] = answer(200)
    assert await ingestion.fetch(wanted(site)) == StoredSource(KEY, 0, hashlib.sha256().hexdigest())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(answer(404), SourceNotFound, id="not there"),
        pytest.param(answer(403), SourceForbidden, id="not ours to read"),
        pytest.param(answer(503), SourceUnreachable, id="not now"),
        pytest.param(answer(200, bytes((1 << 20) + 1)), SourceTooLarge, id="too large"),
        pytest.param(answer(200, SONG)[:-1], SourceUnreachable, id="a byte too few"),
        pytest.param(b"", SourceUnreachable, id="no answer"),
    ],
)
async def test_a_failed_fetch_leaves_nothing(
    site: Site, ingestion: Ingestion, artifacts: Artifacts, reply: bytes, error: type[WorkError]
) -> None:
    site.replies["/song"] = reply
    with pytest.raises(error):
        await ingestion.fetch(wanted(site))
    assert artifacts.keys("jobs") == []


async def test_a_fetch_that_failed_may_be_tried_again(site: Site, ingestion: Ingestion, artifacts: Artifacts) -> None:
    site.replies["/song"] = answer(200, SONG)[:1000]
    with pytest.raises(SourceUnreachable) as failed:
        await ingestion.fetch(wanted(site))
    assert failed.value.transient
    site.replies["/song"] = answer(200, SONG)
    assert (await ingestion.fetch(wanted(site))).size == len(SONG)
    assert artifacts.read(KEY) == SONG
