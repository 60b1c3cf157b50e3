"""Streaming voice activity detection with Silero VAD (v6, ONNX, shipped with faster-whisper)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import faster_whisper
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE, Span

FRAME = 512  # samples per probability: 32 ms
CONTEXT = 64  # samples before a frame that are part of the model's input

# Automatic gain: quiet audio is raised to a peak of LOUD, by MAX_GAIN at most; the peak decays by this factor a frame.
LOUD, MAX_GAIN, PEAK_DECAY = 0.3, 100.0, 0.997

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Thresholds of speech detection."""

    on: float = 0.5  # probability at which speech begins
    off: float = 0.35  # probability below which a pause begins
    pause_s: float = 0.2  # pause that ends a span
    shortest_s: float = 0.1  # shorter spans are dropped
    longest_s: float = 27.0  # longer spans are cut, in a short pause if there is one


class VadModel(Protocol):
    """Stateful model of speech probability."""

    def __call__(self, audio: Floats) -> Floats:
        """n frames of samples → n probabilities."""
        ...


class SileroVad:
    """Silero's recurrent network."""

    def __init__(self) -> None:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        path = Path(faster_whisper.__file__).parent / "assets" / "silero_vad_v6.onnx"
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._tail = np.zeros(CONTEXT, np.float32)

    def __call__(self, audio: Floats) -> Floats:
        frames = audio.reshape(-1, FRAME)
        before = np.concatenate([self._tail[None], frames[:-1, -CONTEXT:]])
        feed = {"input": np.concatenate([before, frames], axis=1), "h": self._h, "c": self._c}
        output, self._h, self._c = self._session.run(None, feed)
        self._tail = frames[-1, -CONTEXT:].copy()
        return np.asarray(output, np.float32).reshape(-1)


class SpeechDetector:
    """Samples in, spans of speech out; independent of chunk sizes."""

    def __init__(self, sensitivity: Sensitivity | None = None, model: VadModel | None = None) -> None:
        self._limits = sensitivity or Sensitivity()
        self._model = model or SileroVad()
        self._rest = np.zeros(0, np.float32)
        self._frames = 0
        self._start: int | None = None  # frame at which the open span began
        self._quiet: int | None = None  # frame at which the current pause began
        self._probabilities: list[float] = []
        self._peak = 0.0

    @property
    def analysed(self) -> int:
        """Samples whose spans are final: up to the open span, if there is one."""
        return (self._frames if self._start is None else self._start) * FRAME

    def feed(self, audio: Floats) -> list[Span]:
        """Add samples; return the spans that ended."""
        audio = np.concatenate([self._rest, audio])
        whole = len(audio) - len(audio) % FRAME
        self._rest = audio[whole:].copy()
        if not whole:
            return []
        spans = [self._step(float(p)) for p in self._model(self._amplify(audio[:whole]))]
        return [s for s in spans if s is not None]

    def finish(self) -> list[Span]:
        """End the stream; return the last spans."""
        padding = np.zeros(-len(self._rest) % FRAME, np.float32)
        total = self._frames * FRAME + len(self._rest)
        spans = self.feed(padding)
        if self._start is not None:
            last = self._end(self._quiet or self._frames)
            spans += [last] if last else []
        return [Span(s.start, min(s.end, total)) for s in spans if s.start < total]

    def _amplify(self, audio: Floats) -> Floats:
        # The model misses quiet speech; audio that is loud enough stays as it is.
        frames = audio.reshape(-1, FRAME)
        gains = np.ones(len(frames), np.float32)
        for i, peak in enumerate(np.abs(frames).max(axis=1)):
            self._peak = max(float(peak), self._peak * PEAK_DECAY, LOUD / MAX_GAIN)
            gains[i] = max(1.0, LOUD / self._peak)
        return np.asarray(frames * gains[:, None], np.float32).reshape(-1)

    def _step(self, probability: float) -> Span | None:
        frame = self._frames
        self._frames += 1
        if self._start is None:
            if probability >= self._limits.on:
                self._start, self._quiet, self._probabilities = frame, None, [probability]
            return None
        self._probabilities.append(probability)
        if probability >= self._limits.on:
            self._quiet = None
        elif probability < self._limits.off:
            self._quiet = frame if self._quiet is None else self._quiet
        if self._quiet is not None and self._seconds(frame + 1 - self._quiet) >= self._limits.pause_s:
            return self._end(self._quiet)
        if self._seconds(frame + 1 - self._start) >= self._limits.longest_s:
            return self._cut()
        return None

    def _end(self, frame: int) -> Span | None:
        start, self._start = self._start, None
        if start is None or self._seconds(frame - start) < self._limits.shortest_s:
            return None
        return Span(start * FRAME, frame * FRAME)

    def _cut(self) -> Span:
        # Cut an over-long span at its last short pause, or where speech is weakest in its last third. A frame of pause
        # belongs to neither span, so spans touch only where there is none.
        assert self._start is not None
        probabilities = np.array(self._probabilities)
        earliest = len(probabilities) * 2 // 3
        weakest = earliest + int(np.argmin(probabilities[earliest:]))
        pauses = np.flatnonzero(probabilities[1:weakest] < self._limits.off) + 1
        if probabilities[weakest] >= self._limits.off and len(pauses):
            weakest = int(pauses[-1])
        span = Span(self._start * FRAME, (self._start + weakest) * FRAME)
        skipped = weakest + int(probabilities[weakest] < self._limits.off)
        self._start += skipped
        self._probabilities = self._probabilities[skipped:]
        self._quiet = max(self._quiet, self._start) if self._quiet is not None else None
        return span

    @staticmethod
    def _seconds(frames: int) -> float:
        return frames * FRAME / SAMPLE_RATE
