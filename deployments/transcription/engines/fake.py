"""An engine without a model, for tests and for measuring everything else: its text is a fingerprint of the audio.

The model's name may carry a pace: `fake-100` decodes at a hundred times real time, `fake` as fast as it can. A clip of
which `DOOM` is the prompt kills the process, as a broken driver would; one with `FAIL` raises.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Hashable, Sequence

from batching.types import SAMPLE_RATE, Segment, Word
from deployments.messages import EngineInfo
from deployments.transcription.engines.base import Clip, Decode, EngineConfig

SEGMENT_S = 5.0
BATCH, BATCH_S = 4, 30.0
DOOM, FAIL = "fake engine: die", "fake engine: raise"


class FakeEngine:
    """Five-second segments whose words are checksums: the same audio gives the same text, other audio other text."""

    def __init__(self, config: EngineConfig) -> None:
        self.info = EngineInfo(config.model, "cpu", "none", ("en", "de", "fr"))
        self.workers = config.workers
        self.batch = config.batch or BATCH
        self.batch_s = self.batch * BATCH_S
        pace = config.model.partition("-")[2]
        self._pace = float(pace) if pace else None

    def kind(self, clip: Clip) -> Hashable:
        """All share that ask for the same."""
        return clip.how

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        """See the class."""
        if self._pace:
            time.sleep(sum(len(clip.audio) for clip in clips) / SAMPLE_RATE / self._pace)
        for clip in clips:
            if clip.options.prompt == DOOM:
                os.kill(os.getpid(), signal.SIGKILL)
            if clip.options.prompt == FAIL:
                raise RuntimeError("told to fail")
        return [self._decode(clip) for clip in clips]

    def _decode(self, clip: Clip) -> Decode:
        language = clip.options.language or "en"
        step = int(SEGMENT_S * SAMPLE_RATE)
        segments = []
        for start in range(0, len(clip.audio), step):
            piece = clip.audio[start : start + step]
            mark = f"{zlib.crc32(piece.tobytes()):08x}"
            begin, end = start / SAMPLE_RATE, (start + len(piece)) / SAMPLE_RATE
            words = (Word(mark, begin, end, 1.0),) if clip.options.word_timestamps else None
            segments.append(Segment(0, begin, end, f" {mark}", 1.0, language, words))
        return Decode(tuple(segments), language, -0.1, 0.0, len(segments))
