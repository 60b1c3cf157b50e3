"""The engine and the batcher without the service: no Ray, no Redis, no HTTP. Recordings in, segments out.

    python -m benchmarks.lib.bare_engine FILE... [--at-once] [--language en] [--compute-type int8]

prints what `benchmarks.lib.faster_whisper_baseline` prints, for our own engine.
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
from benchmarks.lib.faster_whisper_baseline import CACHE, CORES, Heard, tell
from deployments.messages import DecodeOptions, TranscodeRequest, TranscribeRequest, WindowResult
from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from deployments.transcoding.stage import Transcoder
from deployments.transcription.engines import load
from deployments.transcription.engines.base import EngineConfig
from deployments.transcription.stage import Transcriber
from serve_app.runner.channel_state import DecodeTask, decode_with_language_retry

JOBS, WINDOWS = 32, 16


class Bare:
    """Stages as plain objects over a folder of their own, for `async with`."""

    def __init__(self, compute_type: str = "auto") -> None:
        self.engine = load(EngineConfig("faster_whisper", "base", str(CACHE), compute_type=compute_type, workers=CORES))
        self._folder = TemporaryDirectory(prefix="murmur-bench-")
        self._artifacts = Artifacts(Path(self._folder.name).as_uri())
        self._transcoder = Transcoder(self._artifacts, find_ffmpeg().path)
        self.transcriber = Transcriber(self._artifacts, self.engine)
        self._jobs = asyncio.Semaphore(JOBS)

    async def all(self, paths: Sequence[Path], options: DecodeOptions, at_once: bool = True) -> list[list[Segment]]:
        """Transcribe all, at once or one by one."""
        jobs = [self.one(f"job-{i}", path, options) for i, path in enumerate(paths)]
        return list(await asyncio.gather(*jobs)) if at_once else [await job for job in jobs]

    async def one(self, name: str, path: Path, options: DecodeOptions) -> list[Segment]:
        """Transcribe a recording; a few of its windows are in flight at a time, while more are planned."""
        async with self._jobs:
            await asyncio.to_thread(lambda: self._artifacts.put(f"{name}/source", path.read_bytes()))
            planned: asyncio.Queue[Window | None] = asyncio.Queue()
            planning = asyncio.create_task(self._plan(name, planned))
            slots = asyncio.Semaphore(WINDOWS)
            decoding: dict[Window, DecodeTask] = {}
            while window := await planned.get():
                await slots.acquire()
                task = asyncio.create_task(self._decode(name, window, options, tuple(decoding.values())))
                task.add_done_callback(lambda _: slots.release())
                decoding[window] = task
            await planning
            line: list[Segment] = []
            for window, task in decoding.items():
                end_s = line[-1].end if line else 0.0
                line += stitch((await task).segments, next_id=len(line), end_s=end_s, window=window)
            await asyncio.to_thread(self._artifacts.delete, name)
            return line

    async def _plan(self, name: str, planned: asyncio.Queue[Window | None]) -> None:
        """Hand over a recording's windows as they close; None after the last."""
        request = TranscodeRequest(f"{name}/source", f"{name}/pcm", WindowLimits().longest_s, 86_400.0)
        try:
            async with aclosing(self._transcoder.windows(request)) as plans:
                async for found in plans:
                    for window in found.windows:
                        planned.put_nowait(window)
        finally:
            planned.put_nowait(None)

    async def _decode(
        self, name: str, window: Window, options: DecodeOptions, earlier: Sequence[DecodeTask]
    ) -> WindowResult:
        def hear(likely: str | None) -> Awaitable[WindowResult]:
            how = replace(options, likely_language=likely)
            return self.transcriber.transcribe(TranscribeRequest(name, "bench", 0, f"{name}/pcm", window, how))

        return await decode_with_language_retry(hear, None, earlier)

    async def __aenter__(self) -> Bare:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._folder.cleanup()


async def hear(paths: Sequence[Path], language: str | None, at_once: bool, compute_type: str) -> Heard:
    """All recordings, after one that is not counted."""
    options = DecodeOptions(language=language)
    async with Bare(compute_type) as bare:
        await bare.one("warm-up", min(paths, key=lambda path: path.stat().st_size), options)
        began = time.perf_counter()
        lines = await bare.all(paths, options, at_once)
        took_s = time.perf_counter() - began
    return Heard(took_s, [" ".join(s.text for s in line) for line in lines], [len(line) for line in lines])


def main() -> int:
    """Hear and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--language")
    parser.add_argument("--compute-type", default="auto")
    arguments = parser.parse_args()
    tell(asyncio.run(hear(arguments.paths, arguments.language, arguments.at_once, arguments.compute_type)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
