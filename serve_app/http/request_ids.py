"""Which request is it, and whose work is it part of? Ids for the log and the trace (W3C Trace Context, level 1)."""

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
REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestIds:
    """Gives every request an id, or leaves it the one it came with; the answer tells it. Where `outer` knows ids, they are
    taken, and told by whoever gave them."""

    def __init__(self, app: ASGIApp, outer: Callable[[], str] | None = None) -> None:
        self._app = app
        self._outer = outer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._outer and (known := self._outer()):
            scope.setdefault("state", {})["request_id"] = known
            await self._app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(HEADER, b"")
        request_id = sent.decode() if REQUEST_ID.fullmatch(sent) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).setdefault("x-request-id", request_id)
            await send(message)

        await self._app(scope, receive, told)


def trace_of(request: Request) -> Trace:
    """Dependency: what is known of a request."""
    parent = request.headers.get("traceparent", "")
    return Trace(request.state.request_id, parent if TRACEPARENT.fullmatch(parent) else None)


Traced = Annotated[Trace, Depends(trace_of)]
