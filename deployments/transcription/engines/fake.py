"""Engine without a model, for tests and load benchmarks: its text is a checksum of the audio."""

# The model's name may set a speed: `fake-100` decodes at 100 times real time, `fake` as fast as it can.

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Hashable, Sequence

from batching.types import SAMPLE_RATE, Segment, Word
from deployments.cores import usable_cores
from deployments.messages import EngineInfo
from deployments.transcription.engines.base import Clip, Decode, EngineConfig

SEGMENT_S = 5.0
BATCH, BATCH_S = 4, 30.0
# Prompts that kill the process, as a broken driver does, and that raise.
DOOM, FAIL = "fake engine: die", "fake engine: raise"


class FakeEngine:
    """Segments of five seconds, each one word: the CRC of its audio."""

    def __init__(self, config: EngineConfig) -> None:
        self.info = EngineInfo(config.model, "cpu", "none", ("en", "de", "fr"))
        self.workers = config.workers or usable_cores()
        self.batch = config.batch or BATCH
        self.batch_s = self.batch * BATCH_S
        speed = config.model.partition("-")[2]
        self._speed = float(speed) if speed else None

    def kind(self, clip: Clip) -> Hashable:
        return clip.strategy

    def decode(self, clips: Sequence[Clip]) -> list[Decode]:
        if self._speed:
            time.sleep(sum(len(clip.audio) for clip in clips) / SAMPLE_RATE / self._speed)
        for clip in clips:
            if clip.options.prompt == DOOM:
                os.kill(os.getpid(), signal.SIGKILL)
            if clip.options.prompt == FAIL:
                raise RuntimeError("the prompt requests a failure")
        return [self._decode(clip) for clip in clips]

    def _decode(self, clip: Clip) -> Decode:
        language = clip.options.language or "en"
        step = int(SEGMENT_S * SAMPLE_RATE)
        segments = []
        for start in range(0, len(clip.audio), step):
            piece = clip.audio[start : start + step]
            checksum = f"{zlib.crc32(piece.tobytes()):08x}"
            begin, end = start / SAMPLE_RATE, (start + len(piece)) / SAMPLE_RATE
            words = (Word(checksum, begin, end, 1.0),) if clip.options.word_timestamps else None
            segments.append(Segment(0, begin, end, f" {checksum}", 1.0, language, words))
        return Decode(tuple(segments), language, -0.1, 0.0, len(segments))
