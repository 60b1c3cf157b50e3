"""Engine protocol: batches of audio clips in, timed text out."""

# An engine knows no windows, jobs or queues. To add one: implement `Engine` in a module of this package and register a
# factory in `__init__.py`. The constructor takes an EngineConfig and raises ModelUnavailable where weights or device are
# missing; `fake.py` is the smallest example. A batch whose `decode` raises is halved and run again; one that runs out of
# memory makes later batches smaller, and a single clip waits for memory.

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from batching.quality import GREEDY, Strategy
from batching.types import Segment, Word
from deployments.messages import DecodeOptions, EngineInfo


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Engine settings."""

    engine: str  # name in the registry
    model: str
    cache_dir: str  # for weights
    device: str = "auto"  # or "cpu", "cuda"
    compute_type: str = "auto"
    workers: int = 1  # batches decoded at once, 0: one on a GPU, else one per CPU core
    batch: int = 0  # most clips in a batch, 0: the engine decides
    beam_below: float | None = None  # beam search below this mean log-probability, None: by language and length


@dataclass(frozen=True, slots=True)
class Clip:
    """Input of a decode."""

    audio: NDArray[np.float32]  # at most 30 s at 16 kHz, in [-1, 1]
    options: DecodeOptions
    strategy: Strategy = GREEDY


@dataclass(frozen=True, slots=True)
class Decode:
    """Result of a decode."""

    segments: tuple[Segment, ...]  # times in seconds from the clip's start; ids are not used
    language: str | None
    log_probability: float  # mean over the text's tokens
    no_speech: float  # probability
    tokens: int  # of the text
    ends_at: float | None = None  # seconds at which the text stops before the clip does: the rest is decoded as well
    full_context: bool = True  # whether the encoder had its full context
    capped: bool = False  # whether the text reached its token limit
    language_probability: float = 1.0  # 1 if the language was requested, 0 if it was assumed

    @property
    def text(self) -> str:
        return "".join(segment.text for segment in self.segments)


class Engine(Protocol):
    """Loaded model; `decode` is called from several threads."""

    info: EngineInfo
    workers: int  # calls of `decode` at once; on a GPU one more, which prepares its input meanwhile
    # Most clips, and most audio in seconds, per call; a single clip may exceed it. Lowered where memory runs out.
    batch: int
    batch_s: float

    def kind(self, clip: Clip) -> Hashable:
        """Batching key: only clips of equal kind share a batch."""
        ...

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """Decode a batch; one result per clip, in order."""
        ...


def shift_times(segment: Segment, seconds: float) -> Segment:
    words = segment.words and tuple(
        Word(w.text, round(w.start + seconds, 3), round(w.end + seconds, 3), w.confidence) for w in segment.words
    )
    return replace(segment, start=segment.start + seconds, end=segment.end + seconds, words=words)
