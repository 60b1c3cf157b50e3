"""What is heard of a source while it is decoded: each channel's PCM stored, its speech found, and windows of all of them in
one order."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from batching.types import Window
from batching.windows import WindowLimits, WindowPlanner
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PcmWriter, apart, channel_prefix, to_float
from deployments.transcoding.vad import Sensitivity, SpeechDetector


class _Track:
    """One channel: windows wait in `closed` until their turn comes."""

    def __init__(self, artifacts: Artifacts, prefix: str, limits: WindowLimits) -> None:
        self._writer = PcmWriter(artifacts, prefix)
        self._detector = SpeechDetector(Sensitivity(longest_s=limits.longest_span_s))
        self._planner = WindowPlanner(limits)
        self._ended = False
        self.closed: deque[Window] = deque()

    @property
    def stored(self) -> int:
        return self._writer.stored

    @property
    def next_start(self) -> float:
        """Where the next window starts, or if that is not known yet, where it starts at the earliest."""
        if self.closed:
            return self.closed[0].start
        return float("inf") if self._ended else self._planner.next_start(self._detector.heard)

    def hear(self, pcm: bytes) -> None:
        self._writer.write(pcm)
        self.closed += self._planner.feed(self._detector.feed(to_float(pcm)), self._detector.heard)

    def finish(self) -> None:
        self._writer.finish()
        self.closed += self._planner.feed(self._detector.finish(), self._detector.heard)
        self.closed += self._planner.finish(self.stored)
        self.closed = deque(replace(window, end=min(window.end, self.stored)) for window in self.closed)
        self._ended = True


class Hearing:
    """One pass over a source whose `channels` are kept apart, or mixed if None. Windows go by their start, and by channel
    where they start together: an order that depends on what is heard alone, not on how it was handed over."""

    def __init__(self, artifacts: Artifacts, prefix: str, limits: WindowLimits, channels: int | None = None) -> None:
        self._channels = [None] if channels is None else list(range(channels))
        self._tracks = [_Track(artifacts, channel_prefix(prefix, channel), limits) for channel in self._channels]
        self.plan: list[Window] = []

    def hear(self, pcm: bytes) -> list[Window]:
        """Take more PCM, interleaved if there are channels. Returns the windows whose turn has come, their audio stored."""
        pieces = apart(pcm, len(self._tracks)) if len(self._tracks) > 1 else [pcm]
        for track, piece in zip(self._tracks, pieces, strict=True):
            track.hear(piece)
        return self._ready()

    def finish(self) -> list[Window]:
        """That was all: returns the windows that are left."""
        for track in self._tracks:
            track.finish()
        return self._ready()

    def _ready(self) -> list[Window]:
        """A window's turn has come when no channel can have one any more that goes before it."""
        ready: list[Window] = []
        while True:
            channel, track = min(zip(self._channels, self._tracks, strict=True), key=lambda each: each[1].next_start)
            if not track.closed or track.closed[0].end > track.stored:
                break
            ready.append(replace(track.closed.popleft(), index=len(self.plan) + len(ready), channel=channel))
        self.plan += ready
        return ready
