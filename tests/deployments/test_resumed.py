"""A download that is cut off goes on where it stopped, if it is certainly still the same file; if not, it is not glued."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from deployments.errors import SourceTooLarge, SourceUnreachable
from deployments.ingestion.safe_http import RESUMES, Allowed, SafeHttp

BODY = bytes(range(256)) * 400


@dataclass(slots=True)
class Flaky:
    """A server that hangs up in the middle `cuts` times; `tags` are the ETags it names, in turn, the last for ever."""

    cuts: int = 1
    tags: list[str] = field(default_factory=lambda: ['"one"'])
    ranges: bool = True
    short: int = 0
    asked: list[str | None] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    port: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        wanted = re.search(r"range: bytes=(\d+)-\r\nif-range: (\S+)", head)
        found = re.search(r"user-agent: ([^\r]+)", head)
        self.agents.append(found[1] if found else "")
        self.asked.append(wanted and wanted[1])
        tag = self.tags.pop(0) if len(self.tags) > 1 else self.tags[0]
        start = int(wanted[1]) if wanted and self.ranges and wanted[2] == tag.lower() else 0
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
    http = SafeHttp(Allowed.parse(["127.0.0.1"]))
    async with http.get(f"http://127.0.0.1:{server.port}/song", limit, agent) as body:
        return b"".join([chunk async for chunk in body])


async def test_a_cut_download_goes_on(flaky: Flaky) -> None:
    flaky.cuts = RESUMES
    assert await fetch(flaky) == BODY
    assert len(flaky.asked) == RESUMES + 1
    assert flaky.asked[:2] == [None, str(len(BODY) // 2)]


async def test_not_for_ever(flaky: Flaky) -> None:
    flaky.cuts = 100
    with pytest.raises(SourceUnreachable):
        await fetch(flaky)
    assert len(flaky.asked) == RESUMES + 1


@pytest.mark.parametrize("tags", [['W/"weak"'], [""]])
async def test_without_a_strong_tag_it_is_over(flaky: Flaky, tags: list[str]) -> None:
    flaky.tags = tags
    with pytest.raises(SourceUnreachable):
        await fetch(flaky)
    assert flaky.asked == [None]


async def test_a_file_that_has_changed_is_not_glued_to_the_old_one(flaky: Flaky) -> None:
    flaky.tags = ['"one"', '"two"']
    with pytest.raises(SourceUnreachable, match="cannot go on"):
        await fetch(flaky)


async def test_a_server_that_knows_no_ranges_is_not_believed_to(flaky: Flaky) -> None:
    flaky.ranges = False
    with pytest.raises(SourceUnreachable, match="cannot go on"):
        await fetch(flaky)


async def test_a_part_that_is_shorter_than_asked_for_is_not_the_rest(flaky: Flaky) -> None:
    flaky.short = 30_000
    assert await fetch(flaky) == BODY
    flaky.short, flaky.cuts = 5_000, 1
    with pytest.raises(SourceUnreachable, match="again and again"):
        await fetch(flaky)


async def test_the_cap_counts_all_pieces(flaky: Flaky) -> None:
    with pytest.raises(SourceTooLarge):
        await fetch(flaky, len(BODY) - 1)


async def test_who_asks_is_as_asked_for(flaky: Flaky) -> None:
    flaky.cuts = 0
    await fetch(flaky)
    await fetch(flaky, agent="Mozilla/5.0 (test)")
    assert flaky.agents == ["murmuration", "mozilla/5.0 (test)"]
