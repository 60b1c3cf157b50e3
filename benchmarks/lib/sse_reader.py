"""SSE client on plain sockets, cheap enough for a thousand in one process."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from random import Random
from urllib.parse import urlsplit

import orjson

DROP_AFTER = (1, 30)  # events on a connection before a dropping reader disconnects: minimum and maximum


class SseReader:
    """Follows a job's events; with `dropping`, disconnects at random and resumes by Last-Event-ID."""

    # Readers of a job receive equal frames: each is kept in memory once.
    interned: dict[bytes, bytes] = {}  # noqa: RUF012

    def __init__(self, url: str, job_id: str, dropping: Random | None = None) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._dropping = dropping
        self.job_id = job_id
        self.frames: list[bytes] = []
        self.delays_ms: list[float] = []
        self.connections = 0
        self.failures: list[str] = []

    @property
    def ended(self) -> bool:
        return bool(self.frames) and fields(self.frames[-1])["event"] == "done"

    async def follow(self) -> None:
        """Read until `done`, resuming connections that break."""
        while not self.ended:
            self.connections += 1
            try:
                await self._read(self._dropping.randint(*DROP_AFTER) if self._dropping else 0)
            except (OSError, EOFError) as error:
                self.failures.append(str(error))
                await asyncio.sleep(0.2)

    async def _read(self, limit: int) -> None:
        """Read one connection, at most `limit` frames unless 0."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            last = f"Last-Event-ID: {fields(self.frames[-1])['id']}\r\n" if self.frames else ""
            writer.write(f"GET /v1/jobs/{self.job_id}/events HTTP/1.1\r\nHost: {self._host}\r\n{last}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                message = head.partition(b"\r\n")[0] + b" " + await reader.read(500)
                raise ConnectionError(message.decode())
            connected_ms, end = time.time() * 1000, len(self.frames) + limit if limit else sys.maxsize
            async for frame in read_frames(reader):
                self._append(frame, connected_ms)
                if len(self.frames) == end:
                    break
        finally:
            writer.transport.abort()

    def _append(self, frame: bytes, connected_ms: float) -> None:
        created_ms = int(frame[4:17])  # a stream id begins with its time in ms
        if created_ms > connected_ms:
            self.delays_ms.append(time.time() * 1000 - created_ms)
        self.frames.append(self.interned.setdefault(frame, frame))


async def read_frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the events of a chunked response. Raises EOFError if it is cut off."""
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        chunk = await reader.readexactly(size + 2)
        *whole, rest = (rest + chunk[:-2]).split(b"\r\n\r\n")
        for frame in whole:
            if frame.startswith(b"id: "):
                yield frame


def fields(frame: bytes) -> dict[str, str]:
    """Parse a frame into id, event and data."""
    return dict(line.split(": ", 1) for line in frame.decode().split("\r\n"))


def is_complete(stream: Iterable[bytes]) -> bool:
    """Whether segments 0..n-1 come in order and one `done` last."""
    events = [fields(frame) for frame in stream]
    segments = [orjson.loads(event["data"])["id"] for event in events if event["event"] == "segment"]
    ends = [index for index, event in enumerate(events, 1) if event["event"] == "done"]
    return bool(segments) and segments == list(range(len(segments))) and ends == [len(events)]
