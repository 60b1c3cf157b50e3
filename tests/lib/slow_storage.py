"""Storage in a folder, each call of which takes its time or fails."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from deployments.storage.artifacts import Artifacts
from deployments.storage.storage_errors import translated
from deployments.storage.writer import FileWriter

CALLS = ("get_file_info", "open_input_file", "delete_dir", "delete_file")
WRITER_CALLS = ("_open", "_write", "_commit", "_abort")


class SlowFileSystem:
    """pyarrow's local file system behind a `pause` before each call."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self._real = fs.LocalFileSystem()
        self._pause = pause

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if name not in CALLS:
            return real

        def call(*args: Any, **options: Any) -> Any:
            self._pause()
            return real(*args, **options)

        return call


class SlowArtifacts(Artifacts):
    """Artifacts in a folder. `delay_s` is the time of each call, `trouble` is raised by each."""

    def __init__(self, folder: Path, delay_s: float = 0.0) -> None:
        super().__init__(folder.as_uri())
        self.delay_s = delay_s
        self.trouble: OSError | None = None
        self.calls = 0
        self.in_loops: list[str] = []  # stacks of calls in the thread of an event loop
        self._fs = SlowFileSystem(self.pause)

    def pause(self) -> None:
        """Take the time of a call, or fail."""
        self.calls += 1
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            self.in_loops.append("".join(traceback.format_stack(limit=8)))
        time.sleep(self.delay_s)
        if self.trouble:
            raise self.trouble

    def free_bytes(self) -> int | None:
        with translated():
            self.pause()
        return super().free_bytes()

    def writer(self, key: str, *, durable: bool = True, incoming: bool = False) -> FileWriter:
        writer = super().writer(key, durable=durable, incoming=incoming)
        assert isinstance(writer, FileWriter)
        for name in WRITER_CALLS:
            setattr(writer, name, self._slowly(getattr(writer, name)))
        return writer

    def _slowly(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            self.pause()
            return real(*args)

        return call
