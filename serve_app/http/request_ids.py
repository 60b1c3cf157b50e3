"""Request ids (`X-Request-ID`) and trace context (W3C Trace Context, level 1)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated
from uuid import uuid4

from fastapi import Depends, Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.models.trace import TRACEPARENT, Trace

HEADER = b"x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Middleware: gives every request an id; a valid one from the client or from Serve (`outer`) is kept."""

    def __init__(self, app: ASGIApp, outer: Callable[[], str] | None = None) -> None:
        self._app = app
        self._outer = outer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        outer_id = self._outer() if self._outer else ""
        if REQUEST_ID.fullmatch(outer_id):  # Serve's proxy sends the header itself
            scope.setdefault("state", {})["request_id"] = outer_id
            await self._app(scope, receive, send)
            return
        # Serve takes any header for its id: one that could forge fields of the log is replaced, and both are sent.
        header = b"" if outer_id else dict(scope["headers"]).get(HEADER, b"")
        sent_id = header.decode("latin-1")
        request_id = sent_id if REQUEST_ID.fullmatch(sent_id) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-request-id", request_id)
            await send(message)

        await self._app(scope, receive, send_with_id)


def trace_of(request: Request) -> Trace:
    parent = request.headers.get("traceparent", "")
    return Trace(request.state.request_id, parent if TRACEPARENT.fullmatch(parent) else None)


Traced = Annotated[Trace, Depends(trace_of)]
