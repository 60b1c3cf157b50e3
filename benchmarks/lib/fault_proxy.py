"""TCP proxy on loopback that injects faults between a service and its Redis or S3."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

CHUNK = 65_536
CUT_BYTES = 100_000  # of a request, before its connection is cut
SLOW_S = 5.0
ERROR_BODY = b"<Error><Code>%s</Code><Message>%s</Message></Error>"


class Fault(Enum):
    """Treatment of connections."""

    NONE = "none"
    REFUSE = "refuse"  # close at once
    SLOW = "slow"  # SLOW_S before each request is passed on
    CUT = "cut"  # close in the middle of a request's body
    BUSY = "busy"  # HTTP 503 SlowDown
    FULL = "full"  # HTTP 507 XMinioStorageFull


RESPONSES = {
    Fault.BUSY: (b"503 Slow Down", b"SlowDown", b"Please reduce your request rate."),
    Fault.FULL: (b"507 Insufficient Storage", b"XMinioStorageFull", b"Storage backend has reached its minimum free disk."),
}


class FaultProxy:
    """Forwards connections to `target_port`; a change of fault or target closes the open ones."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._fault = Fault.NONE
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @contextmanager
    def running(self) -> Iterator[FaultProxy]:
        """Serve in a background thread."""
        thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(self._accept, "127.0.0.1", 0), self._loop).result()
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self._loop.call_soon_threadsafe(server.close)
            self._disconnect()
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()
            self._loop.close()

    def inject(self, fault: Fault) -> None:
        self._fault = fault
        self._disconnect()

    def retarget(self, port: int) -> None:
        """Forward to another server, as a name that moves to a new primary does."""
        self._target_port = port
        self._disconnect()

    def _disconnect(self) -> None:
        async def cancel() -> None:
            tasks = list(self._connections)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel(), self._loop).result()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._fault is Fault.REFUSE:
            return
        if self._fault in RESPONSES:
            await self._refuse(reader, writer, *RESPONSES[self._fault])
            return
        upstream, downstream = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            back = asyncio.create_task(_copy(upstream, writer))
            try:
                await self._forward(reader, downstream)
                await back
            finally:
                back.cancel()
        finally:
            downstream.close()

    async def _forward(self, reader: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        fault, passed = self._fault, 0
        while chunk := await reader.read(CHUNK):
            if fault is Fault.SLOW:
                await asyncio.sleep(SLOW_S)
            passed += len(chunk)
            if fault is Fault.CUT and passed > CUT_BYTES:
                raise ConnectionResetError
            target.write(chunk)
            await target.drain()
        target.write_eof()

    async def _refuse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: bytes, code: bytes, message: bytes
    ) -> None:
        with suppress(asyncio.LimitOverrunError):
            await reader.readuntil(b"\r\n\r\n")
        body = ERROR_BODY % (code, message)
        head = b"HTTP/1.1 %s\r\nContent-Type: application/xml\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (status, len(body)) + body)
        await writer.drain()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while chunk := await source.read(CHUNK):
            target.write(chunk)
            await target.drain()
        target.write_eof()
