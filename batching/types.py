"""The nouns everyone shares. Positions in audio are sample indices at 16 kHz; times are seconds on the source's clock."""

from __future__ import annotations

from dataclasses import dataclass, field

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech, `[start, end)` in samples."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Window:
    """What one decode hears: `[start, end)` in samples, contiguous audio, with the speech that was detected inside. Where
    speech runs on without a pause two windows overlap: what is said after `cut` belongs to the next one, and the next is
    `joined` to this. `channel` is the one it hears, None for a mix of all."""

    index: int
    start: int
    end: int
    speech: tuple[Span, ...]
    joined: bool = False
    cut: int | None = None
    channel: int | None = None

    @property
    def seconds(self) -> float:
        """Its length in seconds."""
        return (self.end - self.start) / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """The seconds of it in which somebody speaks."""
        return self.speech_before(self.end)

    def speech_before(self, sample: int) -> float:
        """The same, up to a sample."""
        return sum(max(min(span.end, sample) - span.start, 0) for span in self.speech) / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times in seconds; `confidence` is a probability, 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence or a part of one. `id` counts from 0 in the order of the timeline; `words` is None unless asked for. Of the
    window that it was heard in: `seek` is its start in seconds, `language_probability` how certain its language is, 0 to 1,
    and `decode_s` the segment's share of the seconds that it took, which is no part of what was said."""

    id: int
    start: float
    end: float
    text: str
    confidence: float
    language: str | None = None
    words: tuple[Word, ...] | None = None
    speaker: str | None = None
    channel: int | None = None
    label: str | None = None
    flags: tuple[str, ...] = ()
    seek: float | None = None
    language_probability: float | None = None
    decode_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that was said: segments in order, the language heard most, the length of the decoded audio in seconds."""

    segments: tuple[Segment, ...]
    language: str | None
    duration_s: float

    @property
    def text(self) -> str:
        """The plain text, one space between segments."""
        return " ".join(s.text for s in self.segments)
