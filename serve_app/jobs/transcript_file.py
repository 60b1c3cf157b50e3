"""The transcript as it is stored: JSON lines, a segment a line with the id of the event that told it, then a line that
says what holds for all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator

import orjson

from batching.types import Transcript
from deployments.storage.artifacts import Artifacts
from serve_app.models.event import SEGMENT, Event, EventKind, event_order


async def write_transcript(artifacts: Artifacts, key: str, events: AsyncIterator[Event], duration_s: float) -> str | None:
    """Store a transcript from a job's events, as they are read. Returns the language that was spoken longest."""
    spoken: Counter[str] = Counter()
    with artifacts.writer(key) as writer:
        async for event in events:
            if event.kind is EventKind.SEGMENT:
                segment = orjson.loads(event.data)
                spoken[segment.get("language", "")] += segment["end"] - segment["start"]
                writer.write(f'{{"event":"{event.id}","segment":{event.data}}}\n'.encode())
        language = max(spoken, key=lambda code: spoken[code], default="") or None
        writer.write(orjson.dumps({"language": language, "duration_s": duration_s}) + b"\n")
    return language


def read_transcript(artifacts: Artifacts, key: str) -> Transcript:
    """The whole transcript; segments of channels that were kept apart by time, not by channel. FileNotFoundError where
    there is none."""
    *lines, last = (orjson.loads(line) for line in _lines(artifacts, key))
    segments = [SEGMENT.validate_python(line["segment"]) for line in lines]
    if any(segment.channel is not None for segment in segments):
        segments.sort(key=lambda segment: segment.start)
    return Transcript(tuple(segments), last["language"], last["duration_s"])


def replay(artifacts: Artifacts, key: str, after: str) -> Iterator[Event]:
    """The segment events of a stored transcript that came after the event `after`."""
    for line in _lines(artifacts, key):
        entry = orjson.loads(line)
        if "event" in entry and event_order(entry["event"]) > event_order(after):
            yield Event(entry["event"], EventKind.SEGMENT, orjson.dumps(entry["segment"]).decode())


def _lines(artifacts: Artifacts, key: str) -> Iterator[bytes]:
    rest = b""
    for chunk in artifacts.chunks(key):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
