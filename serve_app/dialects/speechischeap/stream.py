"""A job's stream as Speech is Cheap tells it: events in JSON, or the cues of a subtitle file, as they are heard. None of it
can be resumed."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

import orjson
from sse_starlette import ServerSentEvent

from batching.types import Segment
from deployments.errors import WorkError
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.formats import srt_cue, vtt_cue
from serve_app.jobs.service import Jobs
from serve_app.models.event import SEGMENT, Event, EventKind
from serve_app.models.job import Job, Phase
from serve_app.models.principal import Principal

log = logging.getLogger(__name__)

SEGMENT_S = 30.0
"""How long a segment is where nobody said."""
GONE = {"phase": Phase.FAILED, "error": {"message": "The job was removed before its end."}}


class Teller(Protocol):
    """Turns a job's events into frames; `curious` while it wants the job as it is at each."""

    @property
    def curious(self) -> bool:
        """See the class."""
        ...

    def begin(self) -> Iterator[ServerSentEvent]:
        """What comes before everything."""
        ...

    def from_event(self, event: Event, job: Job) -> Iterator[ServerSentEvent]:
        """The frames of an event of `job`."""
        ...

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """The frames of the end, which `done` tells of."""
        ...


def frame(told: Mapping[str, Any], event: str | None = None) -> ServerSentEvent:
    """An event in JSON. Lines end as this vendor's do: its clients split at two newlines."""
    return text(orjson.dumps(told).decode(), event)


def text(lines: str, event: str | None = None) -> ServerSentEvent:
    """An event whose data are `lines`."""
    return ServerSentEvent(lines, event=event, sep="\n")


def shown(segment: Segment) -> dict[str, Any]:
    """A segment, numbered from 1. How certain its language is stands behind it."""
    words = [{"start": word.start, "end": word.end, "text": word.text.strip()} for word in segment.words or ()]
    return {
        "confidence": round(segment.confidence, 3),
        "end": segment.end,
        "id": segment.id + 1,
        "language": f"{segment.language} ({segment.language_probability or 0:.2%})" if segment.language else "",
        "processing_duration_in_s": segment.decode_s,
        "seek": segment.seek,
        "start": segment.start,
        "text": segment.text.strip(),
        "words": None if segment.words is None else words,
    }


def trouble(error: Exception) -> ServerSentEvent:
    """What goes wrong once a stream has begun, where nothing but the stream can say so."""
    if isinstance(error, WorkError):
        return frame(failure(error.message))
    if isinstance(error, StoreUnavailable):
        return frame(failure("The job store cannot be reached right now: try again."))
    log.error("a stream failed", exc_info=error)
    return frame(failure("The service failed to answer this request."))


def failure(message: str) -> dict[str, str]:
    """What is told of a failure."""
    return {"type": "error", "message": message}


def _unfinished(done: Mapping[str, Any]) -> dict[str, str] | None:
    """What is told of an end that is not as it should be."""
    if done["phase"] == Phase.COMPLETED:
        return None
    return {"type": "canceled"} if done["phase"] == Phase.CANCELLED else failure(done["error"]["message"])


class Story:
    """Everything in JSON. `request` is what was asked for, `device` what the model runs on, as far as it is known."""

    def __init__(self, request: Mapping[str, Any], device: str | None, segment_s: float | None) -> None:
        self._request = request
        self._device = device
        self._segment_s = segment_s or SEGMENT_S
        self._duration_s: float | None = None
        self.curious = True

    def begin(self) -> Iterator[ServerSentEvent]:
        """Nothing, while the duration is not known."""
        yield from ()

    def from_event(self, event: Event, job: Job) -> Iterator[ServerSentEvent]:
        """See Teller."""
        told = orjson.loads(event.data)
        segment = SEGMENT.validate_python(told) if event.kind is EventKind.SEGMENT else None
        known = told.get("audio_total_s") or job.audio_total_s or job.audio_declared_s
        yield from self._initial(known or (segment.end if segment else None), job)
        if segment:
            yield frame({**shown(segment), "type": "segment"})
        elif event.kind is EventKind.PROGRESS and not self.curious:
            yield frame(self._progress(told["windows_done"]))
        elif event.kind is EventKind.DONE:
            yield from self._initial(job.audio_done_s, job)
            yield from self.end(told)

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """See Teller."""
        if unfinished := _unfinished(done):
            yield frame(unfinished)
        yield frame({"type": "final"})

    def _initial(self, duration_s: float | None, job: Job) -> Iterator[ServerSentEvent]:
        self._duration_s = duration_s or self._duration_s
        if duration_s is None or not self.curious:
            return
        self.curious = False
        device = job.device or self._device
        yield frame({"device": device, "duration": duration_s, "request": self._request, "type": "initial"})

    def _progress(self, processed: int) -> dict[str, Any]:
        total = max(processed, math.ceil((self._duration_s or 0.0) / self._segment_s))
        return {
            "message": "Processing...",
            "processed_segments": processed,
            "total_segments": total,
            "type": "progress",
        }


class Cues:
    """A subtitle file, `srt` or `vtt`: an event for each cue, which joined by newlines are the file. What such a file has no
    words for, a failure, is an event with a name."""

    curious = False

    def __init__(self, format: str) -> None:
        self._vtt = format == "vtt"

    def begin(self) -> Iterator[ServerSentEvent]:
        """See Teller."""
        if self._vtt:
            yield text("WEBVTT\n")

    def from_event(self, event: Event, _job: Job) -> Iterator[ServerSentEvent]:
        """See Teller."""
        if event.kind is EventKind.SEGMENT:
            segment = SEGMENT.validate_json(event.data)
            yield text(f"{segment.id + 1}\n{vtt_cue(segment)}" if self._vtt else srt_cue(segment.id + 1, segment))
        elif event.kind is EventKind.DONE:
            yield from self.end(orjson.loads(event.data))

    def end(self, done: Mapping[str, Any]) -> Iterator[ServerSentEvent]:
        """See Teller."""
        if unfinished := _unfinished(done):
            yield frame(unfinished, unfinished["type"])


async def follow(jobs: Jobs, who: Principal, job: Job, teller: Teller) -> AsyncGenerator[ServerSentEvent, None]:
    """A job's stream from its start to its end, as `teller` tells it."""
    for each in teller.begin():
        yield each
    try:
        async with aclosing(await jobs.follow(who, job.id, "0")) as events:
            async for event in events:
                if teller.curious:
                    with suppress(StoreUnavailable):  # what is known of it must do
                        job = await jobs.get(who, job.id)
                for each in teller.from_event(event, job):
                    yield each
                if event.kind is EventKind.DONE:
                    return
    except (RequestError, FileNotFoundError):  # it is not there any more
        pass
    except Exception as error:  # noqa: BLE001 - the answer has begun, and is where to say so
        yield trouble(error)
        return
    for each in teller.end(GONE):
        yield each
