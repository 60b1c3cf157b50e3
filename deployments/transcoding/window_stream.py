"""From decoded PCM to stored parts and windows: one track per channel, merged by start."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from batching.types import Window
from batching.windows import WindowLimits, WindowPlanner
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import PcmWriter, channel_prefix, deinterleave, to_float
from deployments.transcoding.vad import Sensitivity, SpeechDetector


class _Track:
    """Channel, or the mix."""

    def __init__(self, artifacts: Artifacts, prefix: str, limits: WindowLimits, after: Window | None) -> None:
        self._writer = PcmWriter(artifacts, prefix)
        self._detector = SpeechDetector(Sensitivity(longest_s=limits.longest_span_s))
        self._planner = WindowPlanner(limits, after)
        self._ended = False
        self.closed: deque[Window] = deque()  # windows that wait for those of other tracks

    @property
    def stored(self) -> int:
        return self._writer.stored

    @property
    def next_start(self) -> float:
        # Of a window that is not planned yet: the earliest possible start.
        if self.closed:
            return self.closed[0].start
        return float("inf") if self._ended else self._planner.next_start(self._detector.analysed)

    def feed(self, pcm: bytes) -> None:
        self._writer.write(pcm)
        self.closed += self._planner.feed(self._detector.feed(to_float(pcm)), self._detector.analysed)

    def finish(self) -> None:
        self._writer.finish()
        self.closed += self._planner.feed(self._detector.finish(), self._detector.analysed)
        self.closed += self._planner.finish(self.stored)
        self.closed = deque(replace(window, end=min(window.end, self.stored)) for window in self.closed)
        self._ended = True


class WindowStream:
    """Windows of `channels` (None: a mix), by start and channel."""

    # The order depends on the audio alone, not on how it is split into calls. It goes on behind the windows of an earlier
    # `plan` of the same audio, which is decoded from its beginning again.

    def __init__(
        self,
        artifacts: Artifacts,
        prefix: str,
        limits: WindowLimits,
        channels: int | None = None,
        plan: Sequence[Window] = (),
        held: Sequence[Window] = (),  # windows of the plan whose audio has to be stored again
    ) -> None:
        self._channels = [None] if channels is None else list(range(channels))
        last = {window.channel: window for window in plan}
        self._tracks = [
            _Track(artifacts, channel_prefix(prefix, channel), limits, last.get(channel)) for channel in self._channels
        ]
        self._planned = len(plan)
        self._held = deque(held)
        self._ended = False

    def feed(self, pcm: bytes) -> list[Window]:
        """Add interleaved PCM; return the next windows, with their audio stored."""
        pieces = deinterleave(pcm, len(self._tracks)) if len(self._tracks) > 1 else [pcm]
        for track, piece in zip(self._tracks, pieces, strict=True):
            track.feed(piece)
        return self._ready()

    def finish(self) -> list[Window]:
        """End the audio; return the last windows."""
        for track in self._tracks:
            track.finish()
        self._ended = True
        return self._ready()

    def _ready(self) -> list[Window]:
        # A window is next once no track can still plan an earlier one.
        ready: list[Window] = []
        stored = min(track.stored for track in self._tracks)
        while self._held and (self._ended or self._held[0].end <= stored):
            window = self._held.popleft()
            ready.append(replace(window, end=min(window.end, stored)))
        while not self._held:
            channel, track = min(zip(self._channels, self._tracks, strict=True), key=lambda pair: pair[1].next_start)
            if not track.closed or track.closed[0].end > track.stored:
                break
            ready.append(replace(track.closed.popleft(), index=self._planned, channel=channel))
            self._planned += 1
        return ready
