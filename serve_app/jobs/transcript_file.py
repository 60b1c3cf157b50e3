"""Stored transcript: JSON lines, a segment with its event id each, then language and duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

import orjson

from batching.types import Transcript
from deployments.storage.artifacts import Artifacts
from serve_app.models.event import SEGMENT, Event, EventKind, event_order

BUFFER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class StoredTranscript:
    segments: int
    language: str | None  # with the most speech


async def write_transcript(
    artifacts: Artifacts, key: str, events: AsyncIterator[Event], duration_s: float
) -> StoredTranscript:
    """Store the segments of a job. Raises StorageUnavailable."""
    seconds: Counter[str] = Counter()
    segments, buffer = 0, bytearray()
    async with artifacts.threads.entered(artifacts.writer(key)) as writer:
        async for event in events:
            if event.kind is EventKind.SEGMENT:
                segment = orjson.loads(event.data)
                segments += 1
                seconds[segment.get("language", "")] += segment["end"] - segment["start"]
                buffer += f'{{"event":"{event.id}","segment":{event.data}}}\n'.encode()
            if len(buffer) >= BUFFER_BYTES:
                await artifacts.threads.run(writer.write, bytes(buffer))
                buffer.clear()
        language = max(seconds, key=lambda code: seconds[code], default="") or None
        buffer += orjson.dumps({"language": language, "duration_s": duration_s}) + b"\n"
        await artifacts.threads.run(writer.write, bytes(buffer))
    return StoredTranscript(segments, language)


def transcript_of(events: Iterable[Event], duration_s: float) -> Transcript:
    """Transcript of a job's segment events so far; channels are merged by time."""
    seconds: dict[str, float] = {}
    segments = [SEGMENT.validate_json(event.data) for event in events]
    for segment in segments:
        code = segment.language or ""
        seconds[code] = seconds.get(code, 0.0) + segment.end - segment.start
    if any(segment.channel is not None for segment in segments):
        segments.sort(key=lambda segment: segment.start)
    return Transcript(tuple(segments), max(seconds, key=seconds.__getitem__, default="") or None, duration_s)


def read_transcript(artifacts: Artifacts, key: str) -> Transcript:
    """Read a transcript; channels are merged by time. Raises FileNotFoundError."""
    *lines, last = (orjson.loads(line) for line in _lines(artifacts, key))
    segments = [SEGMENT.validate_python(line["segment"]) for line in lines]
    if any(segment.channel is not None for segment in segments):
        segments.sort(key=lambda segment: segment.start)
    return Transcript(tuple(segments), last["language"], last["duration_s"])


def replay(artifacts: Artifacts, key: str, after: str) -> Iterator[Event]:
    """Segment events after the event id `after`."""
    for line in _lines(artifacts, key):
        entry = orjson.loads(line)
        if "event" in entry and event_order(entry["event"]) > event_order(after):
            yield Event(entry["event"], EventKind.SEGMENT, orjson.dumps(entry["segment"]).decode())


def _lines(artifacts: Artifacts, key: str) -> Iterator[bytes]:
    rest = b""
    for chunk in artifacts.chunks(key):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
