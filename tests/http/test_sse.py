"""Server-Sent Events: resume positions, frames, end of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from sse_starlette import ServerSentEvent

from serve_app.errors import RequestError
from serve_app.http.sse import last_event_id, stream
from serve_app.models.event import Event, EventKind


@pytest.mark.parametrize("absent", [None, ""])
def test_a_client_without_an_id_starts_at_the_beginning(absent: str | None) -> None:
    assert last_event_id(absent) == "0"


@pytest.mark.parametrize(
    "value", ["0", "17", "1732176000000-0", "1732176000000-12", "9999999999999999999-9999999999999999999"]
)
def test_a_valid_id_is_the_resume_position(value: str) -> None:
    assert last_event_id(value) == value


@pytest.mark.parametrize(
    "value", ["$", "+", "-", ">", "*", "abc", "1-", "-1", "1-2-3", "1.5", " 1-0", "1-0\n", "1" * 20, "(1-0"]
)
def test_an_invalid_id_is_refused(value: str) -> None:
    with pytest.raises(RequestError) as refused:
        last_event_id(value)
    assert (refused.value.code, refused.value.status) == ("malformed", 400)


class EventSource:
    """Events of a job; `closed` is set once the consumer has left."""

    def __init__(self, *kinds: EventKind, ends: bool) -> None:
        self.closed = asyncio.Event()
        self._kinds = kinds
        self._ends = ends

    async def events(self) -> AsyncGenerator[Event, None]:
        try:
            for number, kind in enumerate(self._kinds):
                yield Event(f"{number}-0", kind, "{}")
            if not self._ends:
                await asyncio.Event().wait()
        finally:
            self.closed.set()


def frame(event: Event) -> ServerSentEvent | None:
    """Render everything but progress."""
    return None if event.kind is EventKind.PROGRESS else ServerSentEvent(event.data, event=event.kind, id=event.id)


async def frames(source: EventSource, max_age_s: float) -> list[ServerSentEvent]:
    parts = [part async for part in stream(source.events(), frame, max_age_s).body_iterator]
    return [part for part in parts if isinstance(part, ServerSentEvent) or pytest.fail(f"not a frame: {part!r}")]


async def test_frames_come_in_order_after_the_retry_field() -> None:
    source = EventSource(EventKind.PHASE, EventKind.PROGRESS, EventKind.DONE, ends=True)
    first, *rest = await frames(source, 60.0)
    assert first.retry
    assert [(f.event, f.id) for f in rest] == [("phase", "0-0"), ("done", "2-0")]
    assert source.closed.is_set()


async def test_a_stream_that_reaches_its_maximum_age_ends_and_closes_its_source() -> None:
    source = EventSource(EventKind.PHASE, ends=False)
    sent = await asyncio.wait_for(frames(source, 0.2), 10.0)
    assert [f.event for f in sent[1:]] == ["phase"]
    assert source.closed.is_set()


async def test_headers_tell_proxies_not_to_buffer_the_stream() -> None:
    source = EventSource(ends=True)
    response = stream(source.events(), frame, 60.0)
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Content-Type"].startswith("text/event-stream")
