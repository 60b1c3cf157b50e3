"""class Runner: claim jobs, run them under a lease, finish them or give them back."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto

from deployments.errors import (
    EngineFailed,
    ModelUnavailable,
    PoisonPill,
    SourceNotFound,
    StageDied,
    StageLost,
    StageUnavailable,
    WorkError,
)
from deployments.messages import FetchRequest
from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.event_stream import segments_of
from serve_app.jobs.removal import delete_audio, delete_url
from serve_app.jobs.transcript_file import write_transcript
from serve_app.models.job import Job, JobError, Phase
from serve_app.models.lease import AttemptCost, Claim, LeaseState
from serve_app.models.storage_paths import transcript_key
from serve_app.runner.loops import every
from serve_app.runner.pipeline import CancelRequested, LeaseLost, Pipeline, Stages
from serve_app.runner.sweeper import Sweeper
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

LONGEST_DELAY_S = 60.0
IDLE_S = 1.0  # claims are attempted this often without a notification


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """Limits of one Runner."""

    jobs: int = 8  # at once
    windows: int = 8  # in flight, of each job
    tenant_jobs: int = 0  # running jobs of a tenant, over all Runners; 0 for no cap
    weights: Mapping[str, float] = field(default_factory=dict)  # scheduling weights of tenants
    max_audio_s: float = 86_400.0
    max_source_bytes: int = 2 << 30


class StopReason(Enum):
    CANCELLED = auto()
    DRAINED = auto()
    LEASE_LOST = auto()


@dataclass(slots=True)
class _Running:
    claim: Claim
    work: asyncio.Task[None] | None = None
    stopped: StopReason | None = None  # the first reason counts

    def stop(self, reason: StopReason) -> None:
        if self.stopped is None and self.work:
            self.stopped = reason
            self.work.cancel()


class Runner:
    """Worker that pulls jobs. Several run side by side, on any node."""

    def __init__(
        self, name: str, store: Store, stages: Stages, artifacts: Artifacts, sweeper: Sweeper, limits: RunnerLimits
    ) -> None:
        self._name = name
        self._store = store
        self._stages = stages
        self._artifacts = artifacts
        self._sweeper = sweeper
        self._limits = limits
        self._running: dict[str, _Running] = {}  # by job id
        self._serving: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()  # a job may be waiting, or there is room for one
        self._weights_set = False

    @property
    def jobs(self) -> int:
        return len(self._running)

    async def start(self) -> None:
        self._weights_set = False
        claiming = every(IDLE_S, self._claim_jobs, "job queue", self._wake)
        listening = self._store.events.listen("work", "cancel", on_message=self._on_message)
        self._loops = [asyncio.create_task(loop) for loop in (claiming, listening, self._sweeper.run())]

    @property
    def healthy(self) -> bool:
        """Whether all background loops run."""
        return not any(loop.done() for loop in self._loops)

    async def stop(self) -> None:
        """Stop claiming, and give back unfinished jobs."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for running in self._running.values():
            running.stop(StopReason.DRAINED)
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _claim_jobs(self) -> None:
        if not self._weights_set:
            await self._store.leases.set_weights(self._limits.weights)
            self._weights_set = True
        while len(self._running) < self._limits.jobs and await self._claim():
            pass

    async def _claim(self) -> bool:
        claiming = asyncio.ensure_future(self._store.leases.claim(self._name, self._limits.tenant_jobs))
        try:
            claim = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            # The claim may succeed all the same: give the job back before stopping.
            with suppress(StoreUnavailable):
                if late := await claiming:
                    await self._store.leases.give_back(late)
            raise
        if claim:
            self._begin(claim)
        return claim is not None

    def _on_message(self, channel: str, job_id: str) -> None:
        self._wake.set()
        if channel == "cancel" and job_id in self._running:
            self._running[job_id].stop(StopReason.CANCELLED)

    def _begin(self, claim: Claim) -> None:
        if stale := self._running.get(claim.job_id):
            # Our own lease expired, as after a suspend of the machine, and we claimed the job again.
            stale.stop(StopReason.LEASE_LOST)
        running = self._running[claim.job_id] = _Running(claim)
        serving = asyncio.create_task(self._serve(running))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, running: _Running) -> None:
        """Work on a job under heartbeats, then settle its outcome."""
        claim = running.claim
        running.work = asyncio.create_task(self._process(claim))
        renewing = asyncio.create_task(self._renew(running))
        try:
            await asyncio.wait([running.work])
            await self._settle(running, running.work)
            await delete_audio(self._store, self._artifacts, await self._store.jobs.get(claim.job_id))
        except StoreUnavailable as outage:
            log.warning(
                "job_id=%s Redis unavailable, job will be reclaimed when its lease expires: %s", claim.job_id, outage
            )
        finally:
            renewing.cancel()
            if self._running.get(claim.job_id) is running:
                del self._running[claim.job_id]
            self._wake.set()

    async def _renew(self, running: _Running) -> None:
        while True:
            await asyncio.sleep(self._store.leases.lease_s / 3)
            try:
                state = await self._store.leases.renew(running.claim)
            except StoreUnavailable:
                continue
            if state is LeaseState.LOST:
                running.stop(StopReason.LEASE_LOST)
            elif state is LeaseState.CANCELLING:
                running.stop(StopReason.CANCELLED)

    async def _settle(self, running: _Running, work: asyncio.Task[None]) -> None:
        claim = running.claim
        if work.cancelled():
            if running.stopped is StopReason.CANCELLED:
                await self._store.leases.finish(claim, Phase.CANCELLED)
            elif running.stopped is StopReason.DRAINED:
                await self._store.leases.give_back(claim)
            return
        error = work.exception()
        if isinstance(error, CancelRequested):
            await self._store.leases.finish(claim, Phase.CANCELLED)
        elif error is not None and not isinstance(error, LeaseLost):
            await self._fail(claim, error)

    async def _fail(self, claim: Claim, error: BaseException) -> None:
        """Continue with a fallback model, retry with back-off, or fail the job."""
        job = await self._store.jobs.get(claim.job_id)
        if isinstance(error, WorkError):
            reason, transient = JobError(error.code, error.message), error.transient
        else:
            log.error("job_id=%s failed", claim.job_id, exc_info=error)
            reason = JobError("internal", "The service failed while working on this job: try it again.")
            transient = True
        lost = isinstance(error, StageLost)
        if job and job.next_model and _needs_fallback(error, last_attempt=job.attempts >= job.spec.max_attempts):
            log.warning("job_id=%s model failed, continuing with %s: %s", claim.job_id, job.next_model, reason.message)
            await self._store.leases.give_back(claim, model=job.next_model)
        elif job and transient and (lost or job.attempts < job.spec.max_attempts):
            delay_s = min(2.0 ** (job.attempts + job.setbacks), LONGEST_DELAY_S) * random.uniform(0.75, 1.25)
            log.warning("job_id=%s attempt failed, retrying in %.1f s: %s", claim.job_id, delay_s, reason.message)
            await self._store.leases.give_back(claim, delay_s=delay_s, cost=_cost(error))
        else:
            await self._store.leases.finish(claim, Phase.FAILED, reason)

    async def _process(self, claim: Claim) -> None:
        job = await self._store.jobs.get(claim.job_id)
        if job is None:
            raise LeaseLost
        await self._ingest(job)
        if job.spec.private and not await delete_url(self._store, job, claim):
            raise LeaseLost
        if not await self._store.leases.enter(claim, Phase.TRANSCODING):
            raise LeaseLost
        pipeline = Pipeline(
            self._store,
            self._stages,
            claim,
            job,
            max_audio_s=self._limits.max_audio_s,
            in_flight=self._limits.windows,
        )
        duration_s = await pipeline.run()
        # Checks the lease before the transcript is written: a worker that was suspended must not store a stale one.
        if not await self._store.leases.note_audio(claim, done_s=duration_s):
            raise LeaseLost
        key = transcript_key(job.id, claim.token)
        language = await write_transcript(self._artifacts, key, segments_of(self._store, job.id), duration_s)
        if not await self._store.leases.finish(claim, Phase.COMPLETED, language=language):
            raise LeaseLost

    async def _ingest(self, job: Job) -> None:
        """Fetch the source; an upload is stored already."""
        key = job.source
        if job.spec.url is not None:
            max_bytes, spec = self._limits.max_source_bytes, job.spec
            request = FetchRequest(job.spec.url, key, max_bytes, spec.user_agent, spec.drive_root, job.tenant)
            stored = await self._stages.fetch(request)
            if spec.file is not None:
                await self._store.jobs.file_stored(spec.file, stored.size)
        elif await asyncio.to_thread(self._artifacts.size, key) is None:
            raise SourceNotFound("The uploaded file is no longer there: send it again.")


def _needs_fallback(error: BaseException, *, last_attempt: bool) -> bool:
    # A model without a replica at the moment gets all attempts first.
    return isinstance(error, EngineFailed | ModelUnavailable | PoisonPill) or (
        last_attempt and isinstance(error, StageUnavailable)
    )


def _cost(error: BaseException) -> AttemptCost:
    if isinstance(error, StageDied):
        return AttemptCost.STALL
    return AttemptCost.LOSS if isinstance(error, StageLost) else AttemptCost.ATTEMPT
