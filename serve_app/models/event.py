"""Entries of a job's event stream."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson
from pydantic import TypeAdapter

from batching.types import Segment


class EventKind(StrEnum):
    PHASE = "phase"
    PROGRESS = "progress"
    SEGMENT = "segment"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    id: str  # position to resume after
    kind: EventKind
    data: str  # a JSON object


@dataclass(frozen=True, slots=True)
class Progress:
    """Payload of a `progress` event; lua/lib.lua emits one with these fields too."""

    audio_done_s: float
    audio_total_s: float | None
    windows_done: int
    queue_position: int | None
    eta_s: float | None

    def dump(self) -> bytes:
        return orjson.dumps(asdict(self))


SEGMENT = TypeAdapter(Segment)


def dump_segment(segment: Segment) -> str:
    """A segment as JSON, without fields that are None."""
    return SEGMENT.dump_json(segment, exclude_none=True).decode()


def event_order(event_id: str) -> tuple[int, int]:
    """Sort key of an event id (`milliseconds-number`)."""
    time, _, number = event_id.partition("-")
    return int(time), int(number or 0)
