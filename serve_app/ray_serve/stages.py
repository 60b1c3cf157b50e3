"""Adapter from Serve handles to the Stages protocol; Ray's exceptions become WorkErrors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.errors import ModelUnavailable, StageDied, StageLost, StageUnavailable, WorkError
from deployments.messages import (
    FetchRequest,
    StoredSource,
    TranscodeProgress,
    TranscodeRequest,
    TranscribeRequest,
    WindowResult,
)
from serve_app.runner.stages import ignore_start


class ServeStages:
    """Implements the Runner's Stages protocol with calls to Serve handles."""

    def __init__(
        self, ingestion: DeploymentHandle, transcoder: DeploymentHandle, transcribers: dict[str, DeploymentHandle]
    ) -> None:
        self._ingestion = ingestion
        self._transcoder = transcoder.options(stream=True)
        self._transcribers = {model: handle.options(stream=True) for model, handle in transcribers.items()}

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """See Ingestion.fetch."""
        source: StoredSource = await _result(self._ingestion.fetch.remote(request))
        return source

    async def windows(self, request: TranscodeRequest) -> AsyncGenerator[TranscodeProgress, None]:
        """See Transcoder.windows."""
        plans: Any = self._transcoder.windows.remote(request)
        try:
            async for planned in _stream(plans):
                yield planned
        finally:
            # Ray does not stop a generator whose consumer has left.
            plans.cancel()

    async def transcribe(
        self, model: str, request: TranscribeRequest, on_start: Callable[[], None] = ignore_start
    ) -> WindowResult:
        """See Transcriber.transcribe."""
        if model not in self._transcribers:
            raise ModelUnavailable(f"The model {model!r} is no longer offered here: use {', '.join(self._transcribers)}.")
        messages: Any = self._transcribers[model].stream.remote(request)
        started = False
        try:
            async for message in _stream(messages):
                if isinstance(message, WindowResult):
                    return message
                started = True
                on_start()
        except StageLost as error:
            raise (StageDied(error.message) if started else error) from error
        finally:
            messages.cancel()
        raise StageLost("A worker ended without an answer: try it again.")


async def _result(response: Any) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except (RayTaskError, RayActorError, RayServeException) as error:
        raise _as_work_error(error) from error


async def _stream(responses: Any) -> AsyncIterator[Any]:
    try:
        async for response in responses:
            yield response
    except (RayTaskError, RayActorError, RayServeException) as error:
        raise _as_work_error(error) from error


def _as_work_error(error: Exception) -> Exception:
    """Unwrap a stage's exception; a dead actor becomes StageLost, an unreachable deployment StageAway."""
    if isinstance(error, RayTaskError):
        cause = error.cause
        return cause if isinstance(cause, WorkError) else error
    if isinstance(error, RayActorError):
        return StageLost("A worker was lost while it had a part of this job, more than once: try it again.")
    return StageUnavailable("A part of the service cannot be reached right now: try it again.")
