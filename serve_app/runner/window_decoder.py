"""class WindowDecoder: decodes a job's windows, again where a worker or the model fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

from batching.types import Window
from deployments.errors import EngineFailed, PoisonPill, StageDied, StageLost, StageUnavailable
from deployments.messages import DecodeOptions, TranscribeRequest, WindowResult
from serve_app.models.job import Job
from serve_app.models.storage_paths import pcm_prefix
from serve_app.runner.channel_state import Decoded, DecodeTask, WindowFailure, decode_with_language_retry
from serve_app.runner.patience import Patience
from serve_app.runner.stages import Stages

MAX_DEATHS = 3  # workers that die decoding one window, before it is given up
MAX_FAILURES = 3  # errors of the model on one window, before it is given up
MAX_LOST = 8  # workers lost with one window for any reason, before its job is given back
RETRY_S = 1.0  # mean pause before the first retry, about
MODEL_AWAY_S = 120.0  # a model without a replica is waited for, before a fallback


class ModelAway(StageUnavailable):
    """The model had no replica for long."""


class WindowDecoder:
    """Decoder of one job. Trouble of the storage is waited out."""

    def __init__(self, stages: Stages, job: Job, patience: Patience) -> None:
        self._stages = stages
        self._job = job
        self._patience = patience

    async def decode(self, window: Window, likely: str | None, earlier: Sequence[DecodeTask]) -> Decoded:
        """Decode a window in the `likely` language where detection is uncertain, else in that of `earlier` ones."""
        try:
            return await decode_with_language_retry(lambda language: self._transcribe(window, language), likely, earlier)
        except (EngineFailed, PoisonPill) as error:
            return WindowFailure(error)

    async def _transcribe(self, window: Window, likely: str | None) -> WindowResult:
        spec = self._job.spec
        options = DecodeOptions(
            language=spec.language,
            likely_language=likely,
            task=spec.task,
            prompt=spec.prompt,
            hotwords=spec.hotwords,
            temperature=spec.temperature,
            # `stitch` needs words to merge windows that overlap.
            word_timestamps=spec.word_timestamps or window.joined or window.cut is not None,
        )
        job = self._job
        request = TranscribeRequest(job.id, job.tenant, spec.priority.urgency, pcm_prefix(job.id), window, options)
        return await self._with_retries(request)

    async def _with_retries(self, request: TranscribeRequest) -> WindowResult:
        """Raises PoisonPill after MAX_DEATHS, EngineFailed after MAX_FAILURES, StageLost after MAX_LOST, ModelAway."""
        lost = died = failed = tries = 0
        while True:
            try:
                return await self._call(request)
            except StageLost as error:
                lost += 1
                died += isinstance(error, StageDied)
                if died == MAX_DEATHS:
                    raise PoisonPill("A part of the audio crashed every worker that decoded it: it was given up.") from error
                if lost == MAX_LOST:
                    raise
            except EngineFailed:
                failed += 1
                if failed == MAX_FAILURES:
                    raise
            # Alone in a batch if the window may be the cause of a death.
            request = replace(request, exclusive=died > 0 or lost > 1)
            await asyncio.sleep(random.uniform(0.5, 1.0) * RETRY_S * 2 ** min(tries, 4))
            tries += 1

    async def _call(self, request: TranscribeRequest) -> WindowResult:
        model = self._job.model
        in_place_s = MODEL_AWAY_S if self._job.next_model else None
        try:
            return await self._patience.insist(
                lambda: self._stages.transcribe(model, request), request.job, "decode", in_place_s=in_place_s
            )
        except StageUnavailable as error:
            raise ModelAway(error.message) from error
