"""Events of Speech is Cheap's streams, as JSON in `data`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from serve_app.dialects.speechischeap.wire import CheapJob, CheapSegment


class CheapUploadEvent(BaseModel):
    """Progress of an upload."""

    type: Literal["upload"]
    message: str
    bytes_uploaded: int


class CheapInitialEvent(BaseModel):
    """Start of a transcription, once its length is known; `duration` in seconds."""

    type: Literal["initial"]
    device: str | None
    duration: float
    request: dict[str, Any]


class CheapProgressEvent(BaseModel):
    """Progress of a transcription."""

    type: Literal["progress"]
    message: str
    processed_segments: int
    total_segments: int


class CheapSegmentEvent(CheapSegment):
    """Segment."""

    type: Literal["segment"]


class CheapErrorEvent(BaseModel):
    """Failure."""

    type: Literal["error"]
    message: str


class CheapCanceledEvent(BaseModel):
    """End of a job that was canceled."""

    type: Literal["canceled"]


class CheapFinalEvent(BaseModel):
    """End of the stream."""

    type: Literal["final"]


# A job stands at the end of an upload without `can_stream_output`.
CheapEvent = (
    CheapUploadEvent
    | CheapInitialEvent
    | CheapProgressEvent
    | CheapSegmentEvent
    | CheapErrorEvent
    | CheapCanceledEvent
    | CheapFinalEvent
    | CheapJob
)
