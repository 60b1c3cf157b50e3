"""Interrupted downloads resume by Range and If-Range if the file is certainly the same, and fail otherwise."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from deployments.errors import SourceTooLarge, SourceUnreachable
from deployments.ingestion.allow_list import AllowList
from deployments.ingestion.safe_http import RESUMES, SafeHttp

BODY = bytes(range(256)) * 400


@dataclass(slots=True)
class Flaky:
    """Server that closes connections in the middle of a response."""

    cuts: int = 1  # interrupted responses
    tags: list[str] = field(default_factory=lambda: ['"one"'])  # ETags in turn, the last for ever
    ranges: bool = True  # whether Range is supported
    short: int = 0  # longest partial response, 0: no limit
    starts: list[str | None] = field(default_factory=list)  # of the requested ranges
    agents: list[str] = field(default_factory=list)  # User-Agent headers
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        requested = re.search(r"range: bytes=(\d+)-\r\nif-range: (\S+)", head)
        agent = re.search(r"user-agent: ([^\r]+)", head)
        self.agents.append(agent[1] if agent else "")
        self.starts.append(requested and requested[1])
        tag = self.tags.pop(0) if len(self.tags) > 1 else self.tags[0]
        start = int(requested[1]) if requested and self.ranges and requested[2] == tag.lower() else 0
        end = min(len(BODY), start + self.short) if start and self.short else len(BODY)
        status = f"206 Part\r\nContent-Range: bytes {start}-{end - 1}/{len(BODY)}" if start else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\nETag: {tag}\r\nContent-Length: {end - start}\r\n\r\n".encode())
        if self.cuts:
            self.cuts -= 1
            end = start + (len(BODY) - start) // 2
        writer.write(BODY[start:end])
        await writer.drain()
        writer.close()


@pytest.fixture
async def flaky() -> AsyncIterator[Flaky]:
    server = Flaky()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


async def fetch(server: Flaky, limit: int = 1 << 20, agent: str | None = None) -> bytes:
    http = SafeHttp(AllowList.parse(["127.0.0.1"]))
    async with http.get(f"http://127.0.0.1:{server.port}/song", limit, agent) as body:
        return b"".join([chunk async for chunk in body])


async def test_an_interrupted_download_resumes(flaky: Flaky) -> None:
    flaky.cuts = RESUMES
    assert await fetch(flaky) == BODY
    assert len(flaky.starts) == RESUMES + 1
    assert flaky.starts[:2] == [None, str(len(BODY) // 2)]


async def test_a_download_resumes_a_limited_number_of_times(flaky: Flaky) -> None:
    flaky.cuts = 100
    with pytest.raises(SourceUnreachable):
        await fetch(flaky)
    assert len(flaky.starts) == RESUMES + 1


@pytest.mark.parametrize("tags", [['W/"weak"'], [""]])
async def test_a_download_without_a_strong_etag_does_not_resume(flaky: Flaky, tags: list[str]) -> None:
    flaky.tags = tags
    with pytest.raises(SourceUnreachable):
        await fetch(flaky)
    assert flaky.starts == [None]


async def test_a_changed_file_is_not_appended_to_the_old_one(flaky: Flaky) -> None:
    flaky.tags = ['"one"', '"two"']
    with pytest.raises(SourceUnreachable, match="cannot go on"):
        await fetch(flaky)


async def test_a_server_without_range_support_is_detected(flaky: Flaky) -> None:
    flaky.ranges = False
    with pytest.raises(SourceUnreachable, match="cannot go on"):
        await fetch(flaky)


async def test_a_partial_response_may_be_shorter_than_the_requested_range(flaky: Flaky) -> None:
    flaky.short = 30_000
    assert await fetch(flaky) == BODY
    flaky.short, flaky.cuts = 5_000, 1
    with pytest.raises(SourceUnreachable, match="again and again"):
        await fetch(flaky)


async def test_the_size_limit_counts_all_parts(flaky: Flaky) -> None:
    with pytest.raises(SourceTooLarge):
        await fetch(flaky, len(BODY) - 1)


async def test_the_user_agent_can_be_set(flaky: Flaky) -> None:
    flaky.cuts = 0
    await fetch(flaky)
    await fetch(flaky, agent="Mozilla/5.0 (test)")
    assert flaky.agents == ["murmuration", "mozilla/5.0 (test)"]
