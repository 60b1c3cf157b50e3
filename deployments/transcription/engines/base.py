"""What an engine is: clips of audio in, text with times out, many at once. It knows no window, job or queue."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batching.quality import GREEDY, Try
from batching.types import Segment, Word
from deployments.messages import DecodeOptions, EngineInfo


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Which engine with which model on which device. `workers` batches run at once, `batch` clips at most in each (0: as
    many as are good). Texts of a lower mean log-probability than `beam_below` are searched with a beam (None: as suits the
    language)."""

    engine: str
    model: str
    cache_dir: str
    device: str = "auto"
    compute_type: str = "auto"
    workers: int = 1
    batch: int = 0
    beam_below: float | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """At most 30 s of audio, 16 kHz in [-1, 1], and how to decode it."""

    audio: NDArray[np.float32]
    options: DecodeOptions
    how: Try = GREEDY


@dataclass(frozen=True, slots=True)
class Decode:
    """What was heard in a clip. Times are seconds from the clip's start; `ends_at` is where the text stops, None where it
    goes to the end; `log_probability` is the mean; `tokens` counts those of the text; `whole` says that the encoder had all
    of its context, `capped` that the text has as many tokens as it was allowed. The probability of a language that was not
    heard is 1 if it was given, 0 if it was assumed."""

    segments: tuple[Segment, ...]
    language: str | None
    log_probability: float
    no_speech: float
    tokens: int
    ends_at: float | None = None
    whole: bool = True
    capped: bool = False
    language_probability: float = 1.0

    @property
    def text(self) -> str:
        """All segments' text."""
        return "".join(segment.text for segment in self.segments)


class Engine(Protocol):
    """`decode` is called from `workers` threads at once, with at most `batch` clips, of `batch_s` seconds in all."""

    info: EngineInfo
    workers: int
    batch: int
    batch_s: float

    def kind(self, clip: Clip) -> Hashable:
        """What clips must have in common to share a batch."""
        ...

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """Decode clips, a result each, in order."""
        ...


def shifted(segment: Segment, seconds: float) -> Segment:
    """The segment moved to a clock that started `seconds` earlier."""
    words = segment.words and tuple(
        Word(w.text, round(w.start + seconds, 3), round(w.end + seconds, 3), w.confidence) for w in segment.words
    )
    return replace(segment, start=segment.start + seconds, end=segment.end + seconds, words=words)
