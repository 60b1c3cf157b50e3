"""Transcript → text, srt, vtt, tsv or json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import orjson

from batching.types import Segment, Transcript
from serve_app.models.event import dump_segment


@dataclass(frozen=True, slots=True)
class Format:
    """A file format for transcripts."""

    suffix: str  # of files, without a dot
    content_type: str
    render: Callable[[Transcript], str]


def clock(seconds: float, separator: str = ".") -> str:
    """Seconds → `HH:MM:SS.mmm`."""
    total = round(seconds * 1000)
    return f"{total // 3_600_000:02}:{total // 60_000 % 60:02}:{total // 1000 % 60:02}{separator}{total % 1000:03}"


def srt_cue(number: int, segment: Segment) -> str:
    """SubRip cue; numbers start at 1."""
    return f"{number}\n{clock(segment.start, ',')} --> {clock(segment.end, ',')}\n{_one_line(segment)}\n"


def vtt_cue(segment: Segment) -> str:
    """WebVTT cue."""
    # The text may contain neither `-->` nor tags.
    text = _one_line(segment).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"{clock(segment.start)} --> {clock(segment.end)}\n{text}\n"


def _one_line(segment: Segment) -> str:
    return " ".join(segment.text.split())


def _text(transcript: Transcript) -> str:
    return "".join(f"{_one_line(s)}\n" for s in transcript.segments)


def _srt(transcript: Transcript) -> str:
    return "\n".join(srt_cue(n, s) for n, s in enumerate(transcript.segments, 1))


def _vtt(transcript: Transcript) -> str:
    return "\n".join(["WEBVTT\n", *(vtt_cue(s) for s in transcript.segments)])


def _tsv(transcript: Transcript) -> str:
    # Times in milliseconds, as the openai-whisper CLI writes them.
    rows = (f"{round(s.start * 1000)}\t{round(s.end * 1000)}\t{_one_line(s)}\n" for s in transcript.segments)
    return "start\tend\ttext\n" + "".join(rows)


def json_document(transcript: Transcript) -> dict[str, object]:
    """Fields of the JSON format, for orjson."""
    return {
        "language": transcript.language,
        "duration_s": transcript.duration_s,
        "text": transcript.text,
        "segments": [orjson.Fragment(dump_segment(s)) for s in transcript.segments],
    }


def _json(transcript: Transcript) -> str:
    return orjson.dumps(json_document(transcript)).decode()


FORMATS = {
    "json": Format("json", "application/json", _json),
    "text": Format("txt", "text/plain; charset=utf-8", _text),
    "srt": Format("srt", "application/x-subrip; charset=utf-8", _srt),
    "vtt": Format("vtt", "text/vtt; charset=utf-8", _vtt),
    "tsv": Format("tsv", "text/tab-separated-values; charset=utf-8", _tsv),
}
