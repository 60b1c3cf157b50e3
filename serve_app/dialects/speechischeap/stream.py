"""Event stream of a job: JSON, or the cues of a subtitle file. It cannot be resumed."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

import orjson
from sse_starlette import ServerSentEvent

from deployments.errors import WorkError
from serve_app.dialects.speechischeap.translate import from_segment
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.formats import srt_cue, vtt_cue
from serve_app.jobs.service import Jobs
from serve_app.jobs.tenant_slots import Slot
from serve_app.models.event import SEGMENT, Event, EventKind
from serve_app.models.job import Job, Phase
from serve_app.models.principal import Principal

log = logging.getLogger(__name__)

DEFAULT_SEGMENT_S = 30.0
REMOVED: Mapping[str, Any] = {
    "phase": Phase.FAILED,
    "error": {"message": "The job was removed before its end."},
}  # data of a `done` event


class StreamRenderer(Protocol):
    """Renders a job's events as SSE frames."""

    @property
    def needs_job(self) -> bool: ...  # whether the next event must come with the current record

    def begin(self) -> Iterator[ServerSentEvent]: ...

    def from_event(self, event: Event, job: Job) -> Iterator[ServerSentEvent]: ...

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """Render the end; `done` is the data of that event."""
        ...


def json_frame(payload: Mapping[str, Any], event: str | None = None) -> ServerSentEvent:
    return text_frame(orjson.dumps(payload).decode(), event)


def text_frame(text: str, event: str | None = None) -> ServerSentEvent:
    # This vendor's clients split frames at two newlines, not at CRLF.
    return ServerSentEvent(text, event=event, sep="\n")


def upload_frame(size: int) -> ServerSentEvent:
    """Progress of an upload, in bytes."""
    return json_frame({"type": "upload", "message": "Uploading...", "bytes_uploaded": size})


def error_frame(message: str) -> ServerSentEvent:
    return json_frame(_error(message))


def exception_frame(error: Exception) -> ServerSentEvent:
    """Error event for an exception, which is logged if unexpected."""
    if isinstance(error, WorkError):
        return error_frame(error.message)
    if isinstance(error, StoreUnavailable):
        return error_frame("The job store cannot be reached right now: try again.")
    log.error("stream failed, sending an error event", exc_info=error)
    return error_frame("The service failed to answer this request.")


def _error(message: str) -> dict[str, str]:
    return {"type": "error", "message": message}


def _failure(done: Mapping[str, Any]) -> dict[str, str] | None:
    if done["phase"] == Phase.COMPLETED:
        return None
    return {"type": "canceled"} if done["phase"] == Phase.CANCELLED else _error(done["error"]["message"])


class JsonRenderer:
    """Renders JSON; the first event, `initial`, waits for the duration."""

    def __init__(self, request: Mapping[str, Any], device: str | None, segment_s: float | None) -> None:
        self._request = request  # as it was sent
        self._device = device  # of the model, if known
        self._segment_s = segment_s or DEFAULT_SEGMENT_S
        self._duration_s: float | None = None
        self.needs_job = True  # until `initial` is sent

    def begin(self) -> Iterator[ServerSentEvent]:
        yield from ()

    def from_event(self, event: Event, job: Job) -> Iterator[ServerSentEvent]:
        data = orjson.loads(event.data)
        segment = SEGMENT.validate_python(data) if event.kind is EventKind.SEGMENT else None
        duration_s = data.get("audio_total_s") or job.audio_total_s or job.audio_declared_s
        yield from self._initial(duration_s or (segment.end if segment else None), job)
        if segment:
            yield json_frame({**from_segment(segment), "type": "segment"})
        elif event.kind is EventKind.PROGRESS and not self.needs_job:
            yield json_frame(self._progress(data["windows_done"]))
        elif event.kind is EventKind.DONE:
            yield from self._initial(job.audio_done_s, job)
            yield from self.end(data)

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        if failure := _failure(done):
            yield json_frame(failure)
        yield json_frame({"type": "final"})

    def _initial(self, duration_s: float | None, job: Job) -> Iterator[ServerSentEvent]:
        self._duration_s = duration_s or self._duration_s
        if duration_s is None or not self.needs_job:
            return
        self.needs_job = False
        device = job.device or self._device
        yield json_frame({"device": device, "duration": duration_s, "request": self._request, "type": "initial"})

    def _progress(self, processed: int) -> dict[str, Any]:
        total = max(processed, math.ceil((self._duration_s or 0.0) / self._segment_s))
        return {
            "message": "Processing...",
            "processed_segments": processed,
            "total_segments": total,
            "type": "progress",
        }


class SubtitleRenderer:
    """Renders one frame per cue of an `srt` or `vtt` file."""

    needs_job = False

    def __init__(self, format: str) -> None:
        self._vtt = format == "vtt"

    def begin(self) -> Iterator[ServerSentEvent]:
        if self._vtt:
            yield text_frame("WEBVTT\n")

    def from_event(self, event: Event, _job: Job) -> Iterator[ServerSentEvent]:
        if event.kind is EventKind.SEGMENT:
            segment = SEGMENT.validate_json(event.data)
            number = segment.id + 1
            yield text_frame(f"{number}\n{vtt_cue(segment)}" if self._vtt else srt_cue(number, segment))
        elif event.kind is EventKind.DONE:
            yield from self.end(orjson.loads(event.data))

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        # A subtitle file cannot hold a failure: it becomes an event with a name.
        if failure := _failure(done):
            yield json_frame(failure, failure["type"])


def ending(problem: Exception) -> Mapping[str, Any]:
    # The stream ends before the job: the job is gone, or the caller's key is.
    if isinstance(problem, RequestError) and problem.code in ("unauthenticated", "unavailable"):
        return {"phase": Phase.FAILED, "error": {"message": problem.message}}
    return REMOVED


async def follow(
    jobs: Jobs, principal: Principal, job: Job, renderer: StreamRenderer, slot: Slot
) -> AsyncGenerator[ServerSentEvent, None]:
    """Stream a job from its start to its end."""
    failure = REMOVED
    for frame in renderer.begin():
        yield frame
    try:
        async with aclosing(await jobs.follow(principal, job.id, "0", slot)) as events:
            async for event in events:
                if renderer.needs_job:
                    with suppress(StoreUnavailable):  # render from the record at hand
                        job = await jobs.get(principal, job.id)
                for frame in renderer.from_event(event, job):
                    yield frame
                if event.kind is EventKind.DONE:
                    return
    except (RequestError, FileNotFoundError) as problem:
        failure = ending(problem)
    except Exception as error:  # noqa: BLE001 - the response has begun, so the error goes into the stream
        yield exception_frame(error)
        return
    for frame in renderer.end(failure):
        yield frame
