"""Transcoder stage: stored source → PCM parts, windows as they close, and an MP3 copy."""

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
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import parts_stored
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.ffmpeg import encodes_mp3
from deployments.transcoding.mp3_copy import Mp3Copy
from deployments.transcoding.window_stream import WindowStream

log = logging.getLogger(__name__)

CHUNK_SAMPLES = 5 * SAMPLE_RATE


class Transcoder:
    """Decodes sources with the ffmpeg at `program`."""

    def __init__(self, artifacts: Artifacts, program: str) -> None:
        self._artifacts = artifacts
        self._program = program

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        """Yield windows as soon as their audio is stored. Raises UnsupportedMedia, CorruptMedia, NoAudio, AudioTooLong."""
        # A source that was decoded to its end before is not decoded again.
        threads = self._artifacts.threads
        if plan := await threads.run(self._load_plan, request.pcm_prefix):
            yield plan
            return
        limit = int(request.max_audio_s * SAMPLE_RATE)
        async with AsyncExitStack() as stack:
            source = await stack.enter_async_context(threads.entered(self._artifacts.descriptor(request.source_key)))
            copy = await self._mp3_copy(request)
            if copy:
                await stack.enter_async_context(copy)
            mp3 = copy.descriptor if copy else None
            decoder = await Decoder.start(self._program, source, request.max_audio_s + 1, separate=request.channels, mp3=mp3)
            stack.push_async_callback(decoder.stop)
            if copy:
                copy.start()
            await decoder.read_header()
            limits = replace(WindowLimits(), longest_s=request.longest_s)
            stream = await threads.run(WindowStream, self._artifacts, request.pcm_prefix, limits, decoder.channels)
            while pcm := await decoder.read(CHUNK_SAMPLES):
                if decoder.samples > limit:
                    raise AudioTooLong(f"The audio is longer than the {request.max_audio_s:g} s allowed: split it.")
                yield _progress(await threads.run(stream.feed, pcm), decoder)
            await decoder.check_exit()
            if copy:
                await copy.commit()
        last = await threads.run(stream.finish)
        progress = _progress(last, decoder, finished=True)
        plan = replace(progress, windows=tuple(stream.plan))
        await threads.run(self._save_plan, request.pcm_prefix, plan, decoder.samples)
        yield progress

    async def _mp3_copy(self, request: TranscodeRequest) -> Mp3Copy | None:
        if request.listening_key is None:
            return None
        if not await asyncio.to_thread(encodes_mp3, self._program):
            log.warning("no MP3 copy %s: this ffmpeg has no MP3 encoder", request.listening_key)
            return None
        return Mp3Copy(self._artifacts, request.listening_key)

    def _save_plan(self, prefix: str, progress: TranscodeProgress, samples: int) -> None:
        plan = {
            "samples": samples,
            "channels": progress.channels,
            "declared_s": progress.declared_s,
            "windows": [asdict(window) for window in progress.windows],
        }
        self._artifacts.put(plan_key(prefix), json.dumps(plan).encode())

    def _load_plan(self, prefix: str) -> TranscodeProgress | None:
        try:
            plan = json.loads(self._artifacts.read(plan_key(prefix)))
        except FileNotFoundError:
            return None
        # The plan survives a power cut, audio may not.
        if not parts_stored(self._artifacts, prefix, plan["samples"], plan.get("channels")):
            log.warning("audio in %s is incomplete, decoding the source again", prefix)
            return None
        windows = (Window(**{**w, "speech": tuple(Span(**span) for span in w["speech"])}) for w in plan["windows"])
        seconds = plan["samples"] / SAMPLE_RATE
        return TranscodeProgress(tuple(windows), seconds, True, plan.get("channels"), plan.get("declared_s"))


def _progress(windows: list[Window], decoder: Decoder, finished: bool = False) -> TranscodeProgress:
    seconds = decoder.samples / SAMPLE_RATE
    return TranscodeProgress(tuple(windows), seconds, finished, decoder.channels, decoder.declared_s)


def plan_key(prefix: str) -> str:
    """Key of the stored plan of a source that was decoded to its end."""
    return f"{prefix}/plan.json"
