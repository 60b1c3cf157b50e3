"""Server-Sent Events."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from sse_starlette import EventSourceResponse, ServerSentEvent

from serve_app.errors import RequestError
from serve_app.models.event import Event

PING_S = 15
RETRY_MS = 2000
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

EventRenderer = Callable[[Event], ServerSentEvent | None]


def last_event_id(header: str | None) -> str:
    """Position to resume after, from a `Last-Event-ID`. Raises RequestError `malformed`."""
    if not header:
        return "0"
    if not re.fullmatch(r"\d{1,19}(-\d{1,19})?", header):
        raise RequestError("malformed", "Last-Event-ID is not an id that this stream gave.")
    return header


def stream(events: AsyncGenerator[Event, None], render: EventRenderer, max_age_s: float) -> EventSourceResponse:
    """Stream rendered events; ends after `max_age_s`, for the client to reconnect."""
    return EventSourceResponse(_frames(events, render, max_age_s), ping=PING_S, headers=HEADERS)


async def _frames(
    events: AsyncGenerator[Event, None], render: EventRenderer, max_age_s: float
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(retry=RETRY_MS, comment="murmuration")
    end = asyncio.get_running_loop().time() + max_age_s
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(end):
                    event = await anext(events)
            except (StopAsyncIteration, TimeoutError, RequestError):  # the last: its key was revoked or has expired
                return
            if frame := render(event):
                yield frame
