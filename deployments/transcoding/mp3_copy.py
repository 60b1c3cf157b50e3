"""MP3 copy: stores what ffmpeg writes to a pipe, in a background thread."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from deployments.storage.artifacts import CHUNK, Artifacts
from deployments.storage.writer import ArtifactWriter


class _Discarded(Exception):
    pass


class Mp3Copy:
    """Async context: pass `descriptor` to ffmpeg, `start`, `commit` on success. ffmpeg must exit before the context."""

    def __init__(self, artifacts: Artifacts, key: str) -> None:
        self._artifacts = artifacts
        self._key = key
        self._complete: Future[bool] = Future()
        self._stored: Future[None] | None = None
        self._writer: ArtifactWriter | None = None
        self._read_end, self.descriptor = os.pipe()

    def start(self) -> None:
        """Start to read; ffmpeg runs and has the write end."""
        os.close(self.descriptor)
        # A thread of its own: neither a busy event loop nor a busy thread pool may block ffmpeg.
        threads = ThreadPoolExecutor(1, "mp3-copy")
        self._stored = threads.submit(self._store)
        threads.shutdown(wait=False)

    def touch(self) -> None:
        """Keep the copy from being swept while ffmpeg pauses."""
        if self._writer:
            self._writer.touch()

    async def commit(self) -> None:
        """Store the artifact, unless it is empty."""
        assert self._stored
        self._complete.set_result(True)
        with suppress(_Discarded):
            await asyncio.wrap_future(self._stored)

    def _store(self) -> None:
        with os.fdopen(self._read_end, "rb", 0) as pipe:
            try:
                with self._artifacts.writer(self._key) as writer:
                    self._writer = writer
                    while data := pipe.read(CHUNK):
                        writer.write(data)
                    if not (self._complete.result() and writer.size):
                        raise _Discarded
            finally:
                # Drain the pipe even if the storage failed: ffmpeg would block for ever.
                while pipe.read(CHUNK):
                    pass

    async def __aenter__(self) -> Mp3Copy:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stored is None:
            os.close(self._read_end)
            os.close(self.descriptor)
            return
        if not self._complete.done():
            self._complete.set_result(False)
        await asyncio.gather(asyncio.wrap_future(self._stored), return_exceptions=True)
