"""Stored transcript: JSON lines, a segment with its event id each, then language and duration."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator

import orjson

from batching.types import Transcript
from deployments.storage.artifacts import Artifacts
from serve_app.models.event import SEGMENT, Event, EventKind, event_order

WRITE_BYTES = 256 << 10  # written at once


async def write_transcript(artifacts: Artifacts, key: str, events: AsyncIterator[Event], duration_s: float) -> str | None:
    """Store the segments of a job. Returns the language with the most speech."""
    seconds: Counter[str] = Counter()
    lines = bytearray()
    threads = artifacts.threads
    async with threads.entered(artifacts.writer(key)) as writer:
        async for event in events:
            if event.kind is EventKind.SEGMENT:
                segment = orjson.loads(event.data)
                seconds[segment.get("language", "")] += segment["end"] - segment["start"]
                lines += f'{{"event":"{event.id}","segment":{event.data}}}\n'.encode()
            if len(lines) >= WRITE_BYTES:
                await threads.run(writer.write, bytes(lines))
                lines.clear()
        language = max(seconds, key=lambda code: seconds[code], default="") or None
        lines += orjson.dumps({"language": language, "duration_s": duration_s}) + b"\n"
        await threads.run(writer.write, bytes(lines))
    return language


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
