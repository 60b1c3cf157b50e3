"""A stored source → parts of 16 kHz PCM and the windows to decode, as it goes along; and an MP3 to listen to."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import asdict, replace

from batching.types import SAMPLE_RATE, Span, Window
from batching.windows import WindowLimits
from deployments.errors import AudioTooLong
from deployments.messages import Planned, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import Decoder, encodes_mp3
from deployments.transcoding.mp3_copy import Piped
from deployments.transcoding.window_stream import Hearing

log = logging.getLogger(__name__)

CHUNK_SAMPLES = 5 * SAMPLE_RATE


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
        limit = int(request.max_audio_s * SAMPLE_RATE)
        async with AsyncExitStack() as stack:
            # In a thread: from an object store the source is copied first.
            source = await asyncio.to_thread(stack.enter_context, self._artifacts.descriptor(request.source_key))
            copy = await self._copy(request)
            if copy:
                await stack.enter_async_context(copy)
            mp3 = copy.descriptor if copy else None
            decoder = await Decoder.start(self._program, source, request.max_audio_s + 1, apart=request.channels, mp3=mp3)
            stack.push_async_callback(decoder.stop)
            if copy:
                copy.begin()
            await decoder.begin()
            limits = replace(WindowLimits(), longest_s=request.longest_s)
            hearing = await asyncio.to_thread(Hearing, self._artifacts, request.pcm_prefix, limits, decoder.channels)
            while pcm := await decoder.read(CHUNK_SAMPLES):
                if decoder.samples > limit:
                    raise AudioTooLong(f"The audio is longer than the {request.max_audio_s:g} s allowed: split it.")
                yield _planned(await asyncio.to_thread(hearing.hear, pcm), decoder)
            await decoder.verdict()
            if copy:
                await copy.keep()
        last = await asyncio.to_thread(hearing.finish)
        planned = _planned(last, decoder, finished=True)
        self._remember(request.pcm_prefix, replace(planned, windows=tuple(hearing.plan)), decoder.samples)
        yield planned

    async def _copy(self, request: TranscodeRequest) -> Piped | None:
        """Where the MP3 goes, if one is wanted and can be made."""
        if request.listening_key is None:
            return None
        if not await asyncio.to_thread(encodes_mp3, self._program):
            log.warning("%s is not made: this ffmpeg has no MP3 encoder", request.listening_key)
            return None
        return Piped(self._artifacts, request.listening_key)

    def _remember(self, prefix: str, planned: Planned, samples: int) -> None:
        told = {"samples": samples, "channels": planned.channels, "declared_s": planned.declared_s}
        document = {**told, "windows": [asdict(w) for w in planned.windows]}
        self._artifacts.put(plan_key(prefix), json.dumps(document).encode())

    def _recall(self, prefix: str) -> Planned:
        document = json.loads(self._artifacts.read(plan_key(prefix)))
        windows = (Window(**{**w, "speech": tuple(Span(**span) for span in w["speech"])}) for w in document["windows"])
        seconds = document["samples"] / SAMPLE_RATE
        return Planned(tuple(windows), seconds, True, document.get("channels"), document.get("declared_s"))


def _planned(windows: list[Window], decoder: Decoder, finished: bool = False) -> Planned:
    return Planned(tuple(windows), decoder.samples / SAMPLE_RATE, finished, decoder.channels, decoder.declared_s)


def plan_key(prefix: str) -> str:
    """Where the plan of a source that was decoded to its end lies."""
    return f"{prefix}/plan.json"
