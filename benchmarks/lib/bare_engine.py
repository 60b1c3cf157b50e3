"""Engine and batcher without Ray, Redis and HTTP; prints a `Measurement` as JSON.

python -m benchmarks.lib.bare_engine FILE... [--at-once] [--language en] [--compute-type int8]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from batching.stitch import stitch
from batching.types import Segment, Window
from batching.windows import WindowLimits
from benchmarks.lib.faster_whisper_baseline import CACHE, CORES, Measurement, print_json
from deployments.messages import DecodeOptions, TranscodeRequest, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines import load
from deployments.transcription.engines.base import EngineConfig
from deployments.transcription.stage import Transcriber
from serve_app.runner.channel_state import decode_with_language_retry

CONCURRENT_JOBS, WINDOWS_IN_FLIGHT = 32, 16


class BareEngine:
    """Stages as plain objects over a temporary storage."""

    def __init__(self, compute_type: str = "auto") -> None:
        self.engine = load(EngineConfig("faster_whisper", "base", str(CACHE), compute_type=compute_type, workers=CORES))
        self._folder = TemporaryDirectory(prefix="murmur-bench-")
        self._artifacts = Artifacts(Path(self._folder.name).as_uri())
        self._transcoder = Transcoder(self._artifacts, find_ffmpeg().path)
        self.transcriber = Transcriber(self._artifacts, self.engine)
        self._jobs = asyncio.Semaphore(CONCURRENT_JOBS)

    async def transcribe_all(
        self, paths: Sequence[Path], options: DecodeOptions, at_once: bool = True
    ) -> list[list[Segment]]:
        jobs = [self.transcribe(f"job-{i}", path, options) for i, path in enumerate(paths)]
        return list(await asyncio.gather(*jobs)) if at_once else [await job for job in jobs]

    async def transcribe(self, name: str, path: Path, options: DecodeOptions) -> list[Segment]:
        """Transcribe a recording, with a bounded number of windows in flight."""
        async with self._jobs:
            await asyncio.to_thread(lambda: self._artifacts.put(f"{name}/source", path.read_bytes()))
            planned: asyncio.Queue[Window | None] = asyncio.Queue()
            planning = asyncio.create_task(self._plan(name, planned))
            slots = asyncio.Semaphore(WINDOWS_IN_FLIGHT)
            decoding: dict[Window, asyncio.Task[WindowResult]] = {}
            while window := await planned.get():
                await slots.acquire()
                task = asyncio.create_task(self._decode(name, window, options, tuple(decoding.values())))
                task.add_done_callback(lambda _: slots.release())
                decoding[window] = task
            await planning
            segments: list[Segment] = []
            for window, task in decoding.items():
                end_s = segments[-1].end if segments else 0.0
                segments += stitch((await task).segments, next_id=len(segments), end_s=end_s, window=window)
            await asyncio.to_thread(self._artifacts.delete, name)
            return segments

    async def _plan(self, name: str, planned: asyncio.Queue[Window | None]) -> None:
        """Queue windows as they close, then None."""
        request = TranscodeRequest(f"{name}/source", f"{name}/pcm", WindowLimits().longest_s, 86_400.0)
        try:
            async with aclosing(self._transcoder.windows(request)) as plans:
                async for plan in plans:
                    for window in plan.windows:
                        planned.put_nowait(window)
        finally:
            planned.put_nowait(None)

    async def _decode(
        self, name: str, window: Window, options: DecodeOptions, earlier: Sequence[asyncio.Task[WindowResult]]
    ) -> WindowResult:
        def decode(likely_language: str | None) -> Awaitable[WindowResult]:
            with_language = replace(options, likely_language=likely_language)
            return self.transcriber.transcribe(TranscribeRequest(name, "bench", 0, f"{name}/pcm", window, with_language))

        return await decode_with_language_retry(decode, None, earlier)

    async def __aenter__(self) -> BareEngine:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._folder.cleanup()


async def measure(paths: Sequence[Path], language: str | None, at_once: bool, compute_type: str) -> Measurement:
    """Transcribe all recordings after a warm-up."""
    options = DecodeOptions(language=language)
    async with BareEngine(compute_type) as bare:
        await bare.transcribe("warm-up", min(paths, key=lambda path: path.stat().st_size), options)
        began = time.perf_counter()
        transcripts = await bare.transcribe_all(paths, options, at_once)
        took_s = time.perf_counter() - began
    texts = [" ".join(segment.text for segment in segments) for segments in transcripts]
    return Measurement(took_s, texts, [len(segments) for segments in transcripts])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--language")
    parser.add_argument("--compute-type", default="auto")
    arguments = parser.parse_args()
    print_json(asyncio.run(measure(arguments.paths, arguments.language, arguments.at_once, arguments.compute_type)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
