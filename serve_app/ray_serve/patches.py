"""Uploads at the pace of the disk. Serve's proxy takes in a request's body as fast as it comes and keeps what the replica
has not read, and so does the replica: a large upload would stand in memory twice. Here both wait for their reader, and
through them the client's own connection does.

Ray 2.60 has no setting for it, so two of its classes are replaced where they are used; in a release that moves them, uploads
work as Ray has it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ray.exceptions import TaskCancelledError
from ray.serve._private import http_util, proxy, replica

from serve_app.settings import Settings

log = logging.getLogger(__name__)

MOST_MESSAGES = 3
"""Pieces of a body that wait in the proxy. A piece is at most 320 KiB (what asyncio reads at once, and uvicorn's mark), so
that all of them cross to the replica within a call, not through the object store."""


class PacedQueue(http_util.MessageQueue):  # type: ignore[misc]
    """What a proxy has of a request's body: whoever adds to it waits while it is full."""

    def __init__(self) -> None:
        super().__init__()
        self._taken = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        await super().__call__(message)
        while len(self._message_queue) >= MOST_MESSAGES and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def get_messages_nowait(self) -> list[Any]:
        messages: list[Any] = super().get_messages_nowait()
        self._taken.set()
        return messages

    def close(self) -> None:
        super().close()
        self._taken.set()


class PacedReceive(http_util.ASGIReceiveProxy):  # type: ignore[misc]
    """What a replica has of a request's body: it fetches more when what it fetched has been read."""

    def __init__(self, scope: Any, request_metadata: Any, receive_asgi_messages: Any) -> None:
        self._read = asyncio.Event()

        async def fetch_when_read(metadata: Any) -> Any:
            while not self.queue.empty():
                self._read.clear()
                await self._read.wait()
            try:
                return await receive_asgi_messages(metadata)
            except TaskCancelledError:
                # The client has left, and Ray cancels what its request had called. Serve takes that for a failure of ours;
                # this is how it is told of a client that has left.
                raise KeyError("the request is gone") from None

        super().__init__(scope, request_metadata, fetch_when_read)

    async def __call__(self) -> Any:
        message = await super().__call__()
        if self.queue.empty():
            self._read.set()
        return message


def pace_proxy() -> list[Any]:
    """Called by each proxy when it starts (RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it). Adds no middleware."""
    _replace(proxy, "MessageQueue", PacedQueue)
    return []


def pace_replica() -> None:
    """Called by each replica that takes uploads when it starts."""
    _replace(replica, "ASGIReceiveProxy", PacedReceive)


def _replace(module: Any, name: str, paced: type) -> None:
    if hasattr(module, name):
        setattr(module, name, paced)
    else:
        log.warning("this release of Ray has no %s.%s: uploads are not paced", module.__name__, name)


def _loopback_only(settings: Settings) -> None:
    """Keep a replica's own server, which Serve binds to every interface, to the one that the service listens on.
    There is no setting for it in Ray 2.60; a release that moves the function leaves things as Serve wants them."""
    if settings.ray_address or not hasattr(replica, "add_port_to_grpc_server"):
        return
    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]", "127.0.0.1"))
