"""HTTP client that sends a form at its own pace, and reads the response meanwhile."""

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
    """Encode text fields of a form."""
    return b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in values.items()
    )


def file(name: str = "input_file") -> bytes:
    """Encode the headers of a file's part. Its bytes follow, then `END`, or a line break and more fields."""
    headers = f'Content-Disposition: form-data; name="{name}"; filename="talk.wav"\r\nContent-Type: audio/wav'
    return f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode()


@dataclass(slots=True)
class SlowUpload:
    """HTTP/1.1 request in progress."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    headers: dict[str, str] = field(default_factory=dict)

    async def send(self, *pieces: bytes) -> None:
        """Send more of the body."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def status(self) -> int:
        """Read the status and the headers of the response."""
        status, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        self.headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1])

    async def text(self) -> str:
        """Read the whole response."""
        if "content-length" in self.headers:
            return (await self.reader.readexactly(int(self.headers["content-length"]))).decode()
        return "".join([piece async for piece in self._chunks()])

    async def events(self) -> AsyncIterator[Any]:
        """Yield the JSON data of the response's events as they arrive."""
        rest = ""
        async for piece in self._chunks():
            *complete, rest = (rest + piece).split("\n\n")
            for event in complete:
                if not event.startswith(":"):
                    yield json.loads("\n".join(line.removeprefix("data: ") for line in event.split("\n")))

    async def lines(self) -> AsyncIterator[str]:
        """Yield the non-empty lines of the response as they arrive."""
        rest = ""
        async for piece in self._chunks():
            *complete, rest = (rest + piece).split("\n")
            for line in complete:
                if line:
                    yield line

    async def _chunks(self) -> AsyncIterator[str]:
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2].decode()


@asynccontextmanager
async def posting(url: str, length: int, **headers: str) -> AsyncIterator[SlowUpload]:
    """Start a POST of a form of `length` bytes."""
    parts = urlsplit(url)
    assert parts.hostname
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    common = {
        "Host": parts.netloc,
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
        "Content-Length": str(length),
    }
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in (common | headers).items())]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    try:
        yield SlowUpload(reader, writer)
    finally:
        writer.close()
