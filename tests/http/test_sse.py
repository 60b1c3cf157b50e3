"""Where a reader may go on in an event stream, and how the stream is framed and ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from sse_starlette import ServerSentEvent

from serve_app.errors import RequestError
from serve_app.http.sse import last_event_id, stream
from serve_app.models.event import Event, EventKind


@pytest.mark.parametrize("absent", [None, ""])
def test_a_reader_without_an_id_starts_at_the_beginning(absent: str | None) -> None:
    assert last_event_id(absent) == "0"


@pytest.mark.parametrize(
    "given", ["0", "17", "1732176000000-0", "1732176000000-12", "9999999999999999999-9999999999999999999"]
)
def test_an_id_of_ours_is_where_to_go_on(given: str) -> None:
    assert last_event_id(given) == given


@pytest.mark.parametrize(
    "given", ["$", "+", "-", ">", "*", "abc", "1-", "-1", "1-2-3", "1.5", " 1-0", "1-0\n", "1" * 20, "(1-0"]
)
def test_an_id_that_is_not_ours_is_refused(given: str) -> None:
    with pytest.raises(RequestError) as refused:
        last_event_id(given)
    assert (refused.value.code, refused.value.status) == ("malformed", 400)


class Told:
    """A job's events; `closed` once nobody reads them any more."""

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
    """Everything but progress."""
    return None if event.kind is EventKind.PROGRESS else ServerSentEvent(event.data, event=event.kind, id=event.id)


async def frames(told: Told, max_age_s: float) -> list[ServerSentEvent]:
    sent = [part async for part in stream(told.events(), frame, max_age_s).body_iterator]
    return [part for part in sent if isinstance(part, ServerSentEvent) or pytest.fail(f"not a frame: {part!r}")]


async def test_frames_come_in_order_after_word_of_when_to_retry() -> None:
    told = Told(EventKind.PHASE, EventKind.PROGRESS, EventKind.DONE, ends=True)
    first, *rest = await frames(told, 60.0)
    assert first.retry
    assert [(f.event, f.id) for f in rest] == [("phase", "0-0"), ("done", "2-0")]
    assert told.closed.is_set()


async def test_a_stream_that_is_too_old_ends_and_lets_go_of_its_events() -> None:
    told = Told(EventKind.PHASE, ends=False)
    sent = await asyncio.wait_for(frames(told, 0.2), 10.0)
    assert [f.event for f in sent[1:]] == ["phase"]
    assert told.closed.is_set()


async def test_no_proxy_may_hold_a_stream_back() -> None:
    told = Told(ends=True)
    response = stream(told.events(), frame, 60.0)
    assert response.headers["X-Accel-Buffering"] == "no"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.headers["Content-Type"].startswith("text/event-stream")
