"""Web server on loopback with scripted responses."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    lines = (f"HTTP/1.1 {status} Scripted", f"Content-Length: {len(body)}", *headers)
    return "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body


def redirect(to: str) -> bytes:
    return answer(302, b"", f"Location: {to}")


class WebServer:
    """Sends a path's bytes as they are, then closes. `/silent` never responds, `/endless` never ends."""

    def __init__(self) -> None:
        self.replies = {"/song": answer(200, b"la la la")}
        self.paths: list[str] = []  # requested so far
        self.agents: list[str] = []  # User-Agent headers
        self.closed = asyncio.Event()  # set once a client has disconnected
        self.port = 0

    def url(self, path: str = "/song", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        path = head.split()[1]
        self.paths.append(path)
        self.agents += re.findall(r"(?im)^user-agent: (.*?)\r$", head)
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
        self.closed.set()
        writer.close()


@asynccontextmanager
async def serving() -> AsyncIterator[WebServer]:
    """Run a web server on a free port."""
    site = WebServer()
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    site.port = server.sockets[0].getsockname()[1]
    async with server:
        yield site
