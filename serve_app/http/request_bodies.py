"""Request bodies that stop coming, and those that are never asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RequestError

CUT = "body_cut_off"  # in the scope's state: the seconds of silence


class RequestBodies:
    """Middleware: a body of which nothing comes for `idle_s()` seconds counts as broken off."""

    def __init__(self, app: ASGIApp, idle_s: Callable[[], float]) -> None:
        self._app = app
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(scope, receive, send, self._idle_s())
        waits = any(name == b"expect" for name, _ in scope["headers"])
        await self._app(scope, body.receive, body.send if waits else send)


class _Body:
    """Body of one request."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, idle_s: float) -> None:
        self._state = scope.setdefault("state", {})
        self._receive = receive
        self._send = send
        self._idle_s = idle_s
        self._begun = self._complete = False

    async def receive(self) -> Message:
        self._begun = True
        if self._complete:  # what comes after the body is a disconnect, however late
            return await self._receive()
        try:
            async with asyncio.timeout(self._idle_s):
                message = await self._receive()
        except TimeoutError:
            self._complete = True
            self._state[CUT] = self._idle_s
            return {"type": "http.disconnect"}
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Close a connection whose body was not begun to be read: a client that waits for `100 Continue` sends none,
        and its next request would be taken for it."""
        if message["type"] == "http.response.start" and not self._begun:
            MutableHeaders(scope=message)["connection"] = "close"
        await self._send(message)


def broken_off(request: Request) -> RequestError:
    """Error of a body that was not received to its end."""
    if idle_s := request.scope.get("state", {}).get(CUT):
        message = f"Nothing of the body came for {idle_s:g} s: send it again, over a faster connection."
        return RequestError("timeout", message, headers={"Connection": "close"})
    return RequestError("malformed", "The body broke off.")
