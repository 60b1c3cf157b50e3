"""Private parts of Ray, which has no settings for them: monkey patches for upload back-pressure and loopback binding."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

from ray.exceptions import ActorDiedError, TaskCancelledError

from serve_app.ray_serve import proxy_responses
from serve_app.ray_serve.environment import UnsupportedRay

try:
    from ray.serve._private import proxy, replica
    from ray.serve._private.http_util import ASGIReceiveProxy, MessageQueue
    from ray.serve._private.proxy_router import ProxyRouter
    from ray.serve.context import _get_serve_request_context
    from ray.serve.handle import DeploymentHandle
except ImportError as error:
    raise UnsupportedRay.because(f"a part that the service replaces is gone ({error})") from error

# Body chunks that wait in the proxy. Each is at most 320 KiB (asyncio's read size and uvicorn's high-water mark), so that
# all of them fit into one inline call to the replica.
MAX_QUEUED_MESSAGES = 3
CHECK_TIMEOUT_S = 5.0


class PacedQueue(MessageQueue):  # type: ignore[misc]
    """Request body in a proxy, with back-pressure; Serve's own queue would hold a whole upload."""

    def __init__(self) -> None:
        super().__init__()
        self._drained = asyncio.Event()

    async def __call__(self, message: Any) -> None:
        await super().__call__(message)
        while len(self._message_queue) >= MAX_QUEUED_MESSAGES and not self._closed:
            self._drained.clear()
            await self._drained.wait()

    def get_messages_nowait(self) -> list[Any]:
        messages: list[Any] = super().get_messages_nowait()
        self._drained.set()
        return messages

    def close(self) -> None:
        super().close()
        self._drained.set()


class PacedReceive(ASGIReceiveProxy):  # type: ignore[misc]
    """Request body in a replica, with back-pressure: fetches more only when all of it was read."""

    def __init__(self, scope: Any, request_metadata: Any, receive_asgi_messages: Any) -> None:
        self._read = asyncio.Event()

        async def fetch_when_read(metadata: Any) -> Any:
            while not self.queue.empty():
                self._read.clear()
                await self._read.wait()
            try:
                return await receive_asgi_messages(metadata)
            except TaskCancelledError:
                # Ray cancels this call when the client disconnects. Serve treats that as an internal error, but takes
                # a KeyError for a disconnect.
                raise KeyError("client disconnected") from None

        super().__init__(scope, request_metadata, fetch_when_read)

    async def __call__(self) -> Any:
        message = await super().__call__()
        if self.queue.empty():
            self._read.set()
        return message


def pace_proxy() -> list[Any]:
    """Install `PacedQueue` and our responses; called by Serve in each proxy. Adds no middleware. Raises UnsupportedRay."""
    _check_attributes()
    proxy.MessageQueue = PacedQueue
    proxy_responses.install()
    return []


def pace_replica() -> None:
    """Install `PacedReceive` in a replica. Raises UnsupportedRay."""
    _check_attributes()
    replica.ASGIReceiveProxy = PacedReceive


def bind_to_loopback() -> None:
    """Bind this replica's gRPC server to 127.0.0.1 instead of every interface. Raises UnsupportedRay."""
    _check_attributes()
    replica.add_port_to_grpc_server = _on_loopback(replica.add_port_to_grpc_server)


def serve_request_id() -> str:
    """Id that Serve gave to the current request."""
    return str(_get_serve_request_context().request_id)


def check_patches() -> None:
    """Prove that each patch works with the installed Ray, without starting it. Raises UnsupportedRay."""
    _check_attributes()
    try:
        asyncio.run(asyncio.wait_for(_check_pacing(), CHECK_TIMEOUT_S))
        _check_binding()
        _check_responses()
    except TimeoutError:
        raise UnsupportedRay.because("paced uploads hang") from None
    except (AttributeError, TypeError, ValueError, KeyError, RuntimeError) as error:
        raise UnsupportedRay.because(f"a replaced part fails ({type(error).__name__}: {error})") from error


def _on_loopback(bind: Callable[[Any, str], int]) -> Callable[[Any, str], int]:
    return lambda server, address: bind(server, f"127.0.0.1:{address.rpartition(':')[2]}")


def _check_attributes() -> None:
    used = {
        "serve proxy": (proxy, ("MessageQueue", "HTTPProxy", "get_http_response_status", "send_http_response_on_exception")),
        "HTTPProxy": (getattr(proxy, "HTTPProxy", None), ("not_found_response",)),
        "ProxyRouter": (ProxyRouter, ("match_route",)),
        "DeploymentHandle": (DeploymentHandle, ("running_replicas_populated",)),
        "serve replica": (replica, ("ASGIReceiveProxy", "add_port_to_grpc_server")),
        "MessageQueue": (MessageQueue(), ("_message_queue", "_closed", "get_messages_nowait", "close")),
        "ASGIReceiveProxy": (ASGIReceiveProxy, ("queue", "fetch_until_disconnect", "__call__")),
    }
    for name, (owner, attributes) in used.items():
        if missing := [attribute for attribute in attributes if not hasattr(owner, attribute)]:
            raise UnsupportedRay.because(f"its {name} has no {', '.join(missing)}")


async def _check_pacing() -> None:
    """Push messages through both classes: order, back-pressure and release."""
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": bytes([n])} for n in range(MAX_QUEUED_MESSAGES)]
    queue = PacedQueue()
    sender = await _fill(queue, messages)
    _expect(queue.get_messages_nowait() == messages, "upload chunks are lost or reordered")
    await sender
    sender = await _fill(queue, messages)
    queue.close()
    await sender
    batches = iter([messages[:2], messages[2:], [{"type": "http.disconnect"}]])
    fetched: list[list[dict[str, Any]]] = []

    async def fetch(_: object) -> bytes:
        fetched.append(next(batches))
        return pickle.dumps(fetched[-1])

    receive = PacedReceive({"type": "http"}, None, fetch)
    fetching = asyncio.create_task(receive.fetch_until_disconnect())
    await _settle()
    _expect(len(fetched) == 1, "a replica fetches an upload ahead of its reader")
    _expect([await receive() for _ in messages] == messages, "upload chunks are lost or reordered")
    await fetching
    _expect((await receive())["type"] == "http.disconnect", "a client that disconnects is not noticed")


async def _fill(queue: PacedQueue, messages: list[dict[str, Any]]) -> asyncio.Task[None]:
    """Returns the sender, which is blocked by the full queue."""

    async def send() -> None:
        for message in messages:
            await queue(message)

    sender = asyncio.create_task(send())
    await _settle()
    _expect(not sender.done(), "a full upload queue does not block its sender")
    return sender


async def _settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def _check_binding() -> None:
    class Recorder:
        address = ""

        def add_insecure_port(self, address: str) -> int:
            self.address = address
            return 1

        def add_secure_port(self, address: str, _: object) -> int:
            return self.add_insecure_port(address)

    server = Recorder()
    bind = _on_loopback(replica.add_port_to_grpc_server)
    bind(server, "[::]:0")
    _expect(server.address == "127.0.0.1:0", "a replica's gRPC server cannot be bound to loopback")


def _check_responses() -> None:
    """Prove that a proxy's classes call what is replaced, as far as that shows without a proxy."""
    router = object.__new__(ProxyRouter)
    router.sorted_routes = []
    _expect(proxy_responses.match_ready_route(router, "/v1/jobs") is None, "its proxy matches a route that is not there")
    status = proxy_responses.status_of(ActorDiedError(), None, "")
    _expect(status.code == 503, "a replica that died is a fault of the request")
    start, _ = proxy_responses.respond(status, False)
    _expect(start["status"] == 503, "a replica that died is no 503")


def _expect(condition: bool, fault: str) -> None:
    if not condition:
        raise UnsupportedRay.because(fault)
