"""Shared types. Positions are sample indices at 16 kHz, times are seconds on the source's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Span:
    """Stretch of speech, `[start, end)` in samples."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """Unit of decoding: contiguous audio `[start, end)` in samples."""

    index: int  # order in the job's plan, from 0
    start: int
    end: int
    speech: tuple[Span, ...]  # speech detected inside
    joined: bool = False  # overlaps the window before: speech runs on across the cut
    cut: int | None = None  # sample from which words belong to the next window, where that overlaps this one
    channel: int | None = None  # None: a mix of all channels

    @property
    def seconds(self) -> float:
        return (self.end - self.start) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        return self.speech_before(self.end)

    def speech_before(self, sample: int) -> float:
        return sum(max(min(span.end, sample) - span.start, 0) for span in self.speech) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """Word with its times."""

    text: str
    start: float  # seconds
    end: float
    confidence: float  # probability, 0 to 1


@dataclass(frozen=True, slots=True)
class Segment:
    """Sentence or part of one."""

    id: int  # counts from 0 in the order of the timeline
    start: float  # seconds
    end: float
    text: str
    confidence: float  # 0 to 1
    language: str | None = None
    words: tuple[Word, ...] | None = None  # None unless word timestamps were requested
    speaker: str | None = None
    channel: int | None = None
    label: str | None = None
    flags: tuple[str, ...] = ()  # quality flags, see batching.quality
    seek: float | None = None  # start of the segment's window, seconds
    language_probability: float | None = None  # of the window, 0 to 1
    # Share of the window's decode time in seconds. A measurement, so it does not count for equality.
    decode_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Transcript:
    """Segments in order."""

    segments: tuple[Segment, ...]
    language: str | None  # the most frequent one
    duration_s: float  # of the decoded audio

    @property
    def text(self) -> str:
        return " ".join(s.text for s in self.segments)
