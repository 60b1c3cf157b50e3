"""The engine and the batcher without the service: no Ray, no Redis, no HTTP. Recordings in, segments out."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from tempfile import TemporaryDirectory

from batching.stitch import stitch
from batching.types import Segment
from deployments.artifacts import Artifacts
from deployments.engines import load
from deployments.engines.base import EngineConfig
from deployments.ffmpeg import find_ffmpeg
from deployments.messages import DecodeOptions, TranscodeRequest, TranscribeRequest, WindowResult
from deployments.transcoder import Transcoder
from deployments.transcriber import Transcriber

JOBS = 32
WINDOWS = 8


class Bare:
    """Stages as plain objects over a folder of their own, for `async with`."""

    def __init__(self, model: str = "base", *, batch: int = 4, workers: int = 0, device: str = "auto") -> None:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        config = EngineConfig(
            "faster_whisper", model, str(Path(cache) / "murmur"), device=device, workers=workers or cores, batch=batch
        )
        self.engine = load(config)
        self._folder = TemporaryDirectory(prefix="murmur-bench-")
        self._artifacts = Artifacts(Path(self._folder.name).as_uri())
        self._transcoder = Transcoder(self._artifacts, find_ffmpeg().path)
        self._transcriber = Transcriber(self._artifacts, self.engine)
        self._jobs = asyncio.Semaphore(JOBS)

    async def all(self, paths: Sequence[Path], options: DecodeOptions) -> list[list[Segment]]:
        """Transcribe all at once."""
        return list(await asyncio.gather(*(self.one(f"job-{i}", path, options) for i, path in enumerate(paths))))

    async def one(self, name: str, path: Path, options: DecodeOptions) -> list[Segment]:
        """Transcribe a recording; a few of its windows are in flight at a time."""
        async with self._jobs:
            await asyncio.to_thread(lambda: self._artifacts.put(f"{name}/source", path.read_bytes()))
            request = TranscodeRequest(f"{name}/source", f"{name}/pcm", 28.0, 86_400.0)
            slots = asyncio.Semaphore(WINDOWS)
            decoding: list[asyncio.Task[WindowResult]] = []
            async with aclosing(self._transcoder.windows(request)) as plans:
                async for planned in plans:
                    for window in planned.windows:
                        await slots.acquire()
                        asked = TranscribeRequest(name, "bench", 0, f"{name}/pcm", window, options)
                        task = asyncio.create_task(self._transcriber.transcribe(asked))
                        task.add_done_callback(lambda _: slots.release())
                        decoding.append(task)
            line: list[Segment] = []
            for result in await asyncio.gather(*decoding):
                line += stitch(result.segments, next_id=len(line), end_s=line[-1].end if line else 0.0)
            await asyncio.to_thread(self._artifacts.delete, name)
            return line

    async def __aenter__(self) -> Bare:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._folder.cleanup()


def text(segments: Sequence[Segment]) -> str:
    """The plain text."""
    return " ".join(segment.text for segment in segments)
