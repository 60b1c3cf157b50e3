"""Stages as a job's pipeline calls them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import Protocol

from deployments.messages import (
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)


def ignore_start() -> None:
    """Default of `on_start`."""


class Stages(Protocol):
    """Deployments of the service. Each method raises WorkError; StageLost if the stage dies."""

    async def fetch(self, request: FetchRequest) -> StoredSource: ...

    def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]: ...

    # `on_start` is called once the model begins with the window, which waits for its turn until then.
    async def transcribe(
        self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
    ) -> WindowResult: ...
