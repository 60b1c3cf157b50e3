"""Timeout of request bodies: one that stops coming is cut off, and refused with 408."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.errors import RequestError

CUT = "body_cut_off"  # in the scope's state


class BodyTimeouts:
    """Middleware: a body that sends nothing for `idle_s()` seconds counts as a client that has left."""

    def __init__(self, app: ASGIApp, idle_s: Callable[[], float]) -> None:
        self._app = app
        self._idle_s = idle_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            state = scope.setdefault("state", {})
            if complete or CUT in state:  # what comes after the body is a disconnect, however late
                return {"type": "http.disconnect"} if CUT in state else await receive()
            try:
                async with asyncio.timeout(self._idle_s()):
                    message = await receive()
            except TimeoutError:
                state[CUT] = self._idle_s()
                return {"type": "http.disconnect"}
            complete = not message.get("more_body", False)
            return message

        await self._app(scope, receive_in_time, send)


def broken_off(request: Request) -> RequestError:
    """Error of a body that was not received to its end."""
    if idle_s := request.scope.get("state", {}).get(CUT):
        message = f"Nothing of the body came for {idle_s:g} s: send it again, over a faster connection."
        return RequestError("timeout", message, headers={"Connection": "close"})
    return RequestError("malformed", "The body broke off.")
