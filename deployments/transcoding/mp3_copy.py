"""An artifact that another program writes through a pipe, while nothing waits for it."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

from deployments.storage.artifacts import CHUNK, Artifacts


class _Unwanted(Exception):
    """What came is not to be stored."""


class Piped:
    """Use it in an `async with`: hand `descriptor` to the program, `begin` once that runs, `keep` once all is well. The
    artifact appears then, whole; otherwise never. The program must have ended when the `async with` does."""

    def __init__(self, artifacts: Artifacts, key: str) -> None:
        self._artifacts = artifacts
        self._key = key
        self._whole: Future[bool] = Future()
        self._stored: Future[None] | None = None
        self._ours, self.descriptor = os.pipe()

    def begin(self) -> None:
        """The program has its end of the pipe: take what it writes from now on, in a thread of its own, so that neither a
        busy loop nor busy workers can keep the program waiting."""
        os.close(self.descriptor)
        threads = ThreadPoolExecutor(1, "piped")
        self._stored = threads.submit(self._store)
        threads.shutdown(wait=False)

    async def keep(self) -> None:
        """Store it: raises what the storage raised. What holds nothing is not stored."""
        assert self._stored
        self._whole.set_result(True)
        with suppress(_Unwanted):
            await asyncio.wrap_future(self._stored)

    def _store(self) -> None:
        with os.fdopen(self._ours, "rb", 0) as pipe:
            try:
                with self._artifacts.writer(self._key) as writer:
                    while data := pipe.read(CHUNK):
                        writer.write(data)
                    if not (self._whole.result() and writer.size):
                        raise _Unwanted
            finally:
                # Whatever went wrong with the storage: who writes must not wait for ever.
                while pipe.read(CHUNK):
                    pass

    async def __aenter__(self) -> Piped:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stored is None:
            os.close(self._ours)
            os.close(self.descriptor)
            return
        if not self._whole.done():
            self._whole.set_result(False)
        await asyncio.gather(asyncio.wrap_future(self._stored), return_exceptions=True)
