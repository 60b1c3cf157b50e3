"""A reader of a job's events that costs little: one connection after another, straight from the socket."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Iterable
from random import Random
from urllib.parse import urlsplit

import orjson

DROP_AFTER = (1, 30)
"""A reader that drops does so after so many events."""


class Reader:
    """Follows a job to its end. With `dropping`, hangs up and resumes on the way. `frames` is all that it got."""

    known: dict[bytes, bytes] = {}  # noqa: RUF012 - all readers get the same: it is kept once

    def __init__(self, url: str, job_id: str, dropping: Random | None = None) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._dropping = dropping
        self.job_id = job_id
        self.frames: list[bytes] = []
        self.delays_ms: list[float] = []
        self.connections = 0
        self.cuts: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether it has read `done`."""
        return bool(self.frames) and parts(self.frames[-1])["event"] == "done"

    async def follow(self) -> None:
        """Read until `done`; a connection that breaks is resumed too."""
        while not self.ended:
            self.connections += 1
            try:
                await self._read(self._dropping.randint(*DROP_AFTER) if self._dropping else 0)
            except (OSError, EOFError) as error:
                self.cuts.append(str(error))
                await asyncio.sleep(0.2)

    async def _read(self, most: int) -> None:
        """Frames of one connection, `most` of them unless it is 0."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        try:
            last = f"Last-Event-ID: {parts(self.frames[-1])['id']}\r\n" if self.frames else ""
            writer.write(f"GET /v1/jobs/{self.job_id}/events HTTP/1.1\r\nHost: {self._host}\r\n{last}\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.partition(b"\r\n")[0]:
                told = head.partition(b"\r\n")[0] + b" " + await reader.read(500)
                raise ConnectionError(told.decode())
            since_ms, wanted = time.time() * 1000, len(self.frames) + most if most else sys.maxsize
            async for frame in frames(reader):
                self._take(frame, since_ms)
                if len(self.frames) == wanted:
                    break
        finally:
            writer.transport.abort()

    def _take(self, frame: bytes, since_ms: float) -> None:
        made_ms = int(frame[4:17])
        if made_ms > since_ms:
            self.delays_ms.append(time.time() * 1000 - made_ms)
        self.frames.append(self.known.setdefault(frame, frame))


async def frames(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Events of a chunked response, comments left out. EOFError where it breaks off, nothing after its regular end."""
    rest = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        chunk = await reader.readexactly(size + 2)
        *whole, rest = (rest + chunk[:-2]).split(b"\r\n\r\n")
        for frame in whole:
            if frame.startswith(b"id: "):
                yield frame


def parts(frame: bytes) -> dict[str, str]:
    """A frame's id, event and data."""
    return dict(line.split(": ", 1) for line in frame.decode().split("\r\n"))


def complete(stream: Iterable[bytes]) -> bool:
    """Whether a stream has its segments 0..n-1 in order, and one `done`, at its end."""
    told = [parts(frame) for frame in stream]
    segments = [orjson.loads(part["data"])["id"] for part in told if part["event"] == "segment"]
    ends = [place for place, part in enumerate(told, 1) if part["event"] == "done"]
    return bool(segments) and segments == list(range(len(segments))) and ends == [len(told)]
