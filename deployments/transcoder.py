"""A stored source → parts of 16 kHz PCM and the windows to decode, as it goes along."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from dataclasses import asdict, replace

from batching.types import SAMPLE_RATE, Span, Window
from batching.windows import WindowLimits, WindowPlanner
from deployments.artifacts import Artifacts
from deployments.errors import AudioTooLong
from deployments.ffmpeg import Decoder
from deployments.messages import Planned, TranscodeRequest
from deployments.pcm import PcmWriter, to_float
from deployments.vad import Sensitivity, SpeechDetector

CHUNK_SAMPLES = 5 * SAMPLE_RATE


class _Listening:
    """One pass over a source: what is stored, what was heard in it, and the windows whose audio can be read back."""

    def __init__(self, artifacts: Artifacts, request: TranscodeRequest) -> None:
        limits = replace(WindowLimits(), longest_s=request.longest_s)
        self._writer = PcmWriter(artifacts, request.pcm_prefix)
        self._detector = SpeechDetector(Sensitivity(longest_s=limits.longest_span_s))
        self._planner = WindowPlanner(limits)
        self._waiting: list[Window] = []
        self.plan: list[Window] = []

    def hear(self, pcm: bytes) -> list[Window]:
        self._writer.write(pcm)
        spans = self._detector.feed(to_float(pcm))
        self._waiting += self._planner.feed(spans, self._detector.heard)
        return self._ready()

    def finish(self) -> list[Window]:
        self._writer.finish()
        self._waiting += self._planner.feed(self._detector.finish(), self._detector.heard)
        self._waiting += self._planner.finish(self._writer.stored)
        self._waiting = [replace(w, end=min(w.end, self._writer.stored)) for w in self._waiting]
        return self._ready()

    def _ready(self) -> list[Window]:
        ready = [w for w in self._waiting if w.end <= self._writer.stored]
        self._waiting = self._waiting[len(ready) :]
        self.plan += ready
        return ready


class Transcoder:
    """Decodes with the ffmpeg at `program`."""

    def __init__(self, artifacts: Artifacts, program: str) -> None:
        self._artifacts = artifacts
        self._program = program

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[Planned, None]:
        """Yield windows as soon as their audio is stored; the last message says `finished`. A source that was decoded
        to its end before is not decoded again. Raises UnsupportedMedia, CorruptMedia, NoAudio, AudioTooLong."""
        if self._artifacts.size(plan_key(request.pcm_prefix)) is not None:
            yield self._recall(request.pcm_prefix)
            return
        listening = _Listening(self._artifacts, request)
        limit = int(request.max_audio_s * SAMPLE_RATE)
        with ExitStack() as stack:
            # In a thread: from an object store the source is copied first.
            source = await asyncio.to_thread(stack.enter_context, self._artifacts.descriptor(request.source_key))
            decoder = await Decoder.start(self._program, source, request.max_audio_s + 1)
            try:
                while pcm := await decoder.read(CHUNK_SAMPLES):
                    if decoder.samples > limit:
                        raise AudioTooLong(f"The audio is longer than the {request.max_audio_s:g} s allowed: split it.")
                    ready = await asyncio.to_thread(listening.hear, pcm)
                    yield Planned(tuple(ready), decoder.samples / SAMPLE_RATE, finished=False)
                await decoder.verdict()
            finally:
                await decoder.stop()
        last = await asyncio.to_thread(listening.finish)
        self._remember(request.pcm_prefix, listening.plan, decoder.samples)
        yield Planned(tuple(last), decoder.samples / SAMPLE_RATE, finished=True)

    def _remember(self, prefix: str, plan: list[Window], samples: int) -> None:
        document = {"samples": samples, "windows": [asdict(w) for w in plan]}
        self._artifacts.put(plan_key(prefix), json.dumps(document).encode())

    def _recall(self, prefix: str) -> Planned:
        document = json.loads(self._artifacts.read(plan_key(prefix)))
        windows = (Window(**{**w, "speech": tuple(Span(**span) for span in w["speech"])}) for w in document["windows"])
        return Planned(tuple(windows), document["samples"] / SAMPLE_RATE, finished=True)


def plan_key(prefix: str) -> str:
    """Where the plan of a source that was decoded to its end lies."""
    return f"{prefix}/plan.json"
