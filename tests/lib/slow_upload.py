"""A client that sends a form at its own pace, over a bare socket, and reads the answer while it sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = "edge-7"
END = f"\r\n--{BOUNDARY}--\r\n".encode()


def fields(**values: str) -> bytes:
    """Text fields of a form."""
    return b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in values.items()
    )


def file(name: str = "input_file") -> bytes:
    """The head of a file's part; its bytes come next, and then `END` or more fields after a line's end."""
    told = f'Content-Disposition: form-data; name="{name}"; filename="talk.wav"\r\nContent-Type: audio/wav'
    return f"--{BOUNDARY}\r\n{told}\r\n\r\n".encode()


@dataclass(slots=True)
class SlowUpload:
    """A request under way, whose answer is read as HTTP/1.1 has it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, *pieces: bytes) -> None:
        """More of the body."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def status(self) -> int:
        """The answer's status; its headers are known from then on."""
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1])

    async def text(self) -> str:
        """The whole answer."""
        if "content-length" in self.headers:
            return (await self.reader.readexactly(int(self.headers["content-length"]))).decode()
        return "".join([piece async for piece in self._chunks()])

    async def events(self) -> AsyncIterator[Any]:
        """The data of its events, as JSON, as they come."""
        rest = ""
        async for piece in self._chunks():
            *whole, rest = (rest + piece).split("\n\n")
            for event in whole:
                if not event.startswith(":"):
                    yield json.loads("\n".join(line.removeprefix("data: ") for line in event.split("\n")))

    async def lines(self) -> AsyncIterator[str]:
        """Its lines as they come, without those that are empty."""
        rest = ""
        async for piece in self._chunks():
            *whole, rest = (rest + piece).split("\n")
            for line in whole:
                if line:
                    yield line

    async def _chunks(self) -> AsyncIterator[str]:
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2].decode()


@asynccontextmanager
async def posting(url: str, length: int, **headers: str) -> AsyncIterator[SlowUpload]:
    """A form of `length` bytes on its way to `url`."""
    at = urlsplit(url)
    assert at.hostname
    reader, writer = await asyncio.open_connection(at.hostname, at.port)
    sent = {"Host": at.netloc, "Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(length)}
    lines = [f"POST {at.path} HTTP/1.1", *(f"{name}: {value}" for name, value in (sent | headers).items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        yield SlowUpload(reader, writer)
    finally:
        writer.close()
