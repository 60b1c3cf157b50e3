"""Wire models of a job's events and transcript, and an event as a frame of Server-Sent Events."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import ServerSentEvent

from serve_app.dialects.native.wire import JobError, Progress
from serve_app.models.event import Event, EventKind
from serve_app.models.job import Phase

SEGMENT: dict[str, Any] = {
    "id": 0,
    "start": 0.2,
    "end": 3.9,
    "text": "Good morning, Mira.",
    "confidence": 0.83,
    "language": "en",
    "flags": [],
}


class PhaseEvent(BaseModel):
    """Data of a `phase` event: the phase that begins."""

    phase: Phase


class ProgressEvent(Progress):
    """Data of a `progress` event."""

    queue_position: int | None = Field(description="Jobs of the tenant before it; null unless it is queued.")
    eta_s: float | None = Field(description="Expected seconds to the end; while queued, to the start.")


class Word(BaseModel):
    """Word of a segment. Times are seconds on the recording's clock."""

    text: str
    start: float
    end: float
    confidence: float = Field(description="Probability, 0 to 1.")


class Segment(BaseModel):
    """Data of a `segment` event: a sentence or a part of one. Times are seconds on the recording's clock. Fields that
    do not apply are absent."""

    model_config = ConfigDict(json_schema_extra={"examples": [SEGMENT]})

    id: int = Field(description="Counts from 0 in the order of time.")
    start: float
    end: float
    text: str
    confidence: float = Field(description="Mean probability of its words, 0 to 1.")
    language: str | None = Field(None, description="ISO 639-1 code.")
    words: list[Word] | None = Field(None, description="With the option `word_timestamps`.")
    speaker: str | None = Field(None, description="With the option `diarize`.")
    channel: int | None = Field(None, description="With the option `channels`.")
    label: str | None = Field(None, description="With the option `label_audio`.")
    flags: list[str] = Field([], description="Marks of a doubtful decode.")
    seek: float | None = Field(None, description="Start of the decoded window, in seconds.")
    language_probability: float | None = Field(None, description="Certainty of the language, 0 to 1.")
    decode_s: float | None = Field(None, description="Its share of the seconds that decoding the window took.")


class DoneEvent(BaseModel):
    """Data of the `done` event, the last one."""

    phase: Literal[Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED]
    error: JobError | None = Field(None, description="Absent if the job is completed.")


class Transcript(BaseModel):
    """Transcript of a job, with `format=json`."""

    language: str | None = Field(description="Most frequent language.")
    duration_s: float = Field(description="Length of the decoded audio in seconds.")
    text: str
    segments: list[Segment]
    partial: bool = Field(description="Whether the job ended early or has not ended.")


# Event name -> model of its data.
EVENTS: dict[EventKind, type[BaseModel]] = {
    EventKind.PHASE: PhaseEvent,
    EventKind.PROGRESS: ProgressEvent,
    EventKind.SEGMENT: Segment,
    EventKind.DONE: DoneEvent,
}


def from_event(event: Event) -> ServerSentEvent:
    """An event as a frame; its data is the core's JSON, unchanged."""
    return ServerSentEvent(id=event.id, event=event.kind.value, data=event.data)
