"""class Runner: claim jobs, drive them through the stages under a lease, finish them or give them back."""

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
from serve_app.runner.pipeline import CancelRequested, LeaseLost, Pipeline, Stages
from serve_app.runner.sweeper import Sweeper
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

LONGEST_DELAY_S = 60.0
IDLE_S = 1.0
"""A runner looks for work this often even if nobody tells it."""


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """What one runner takes on: jobs at once, windows of each in flight, jobs of a tenant (0: no cap), turns of
    tenants for one of the others', source sizes."""

    jobs: int = 8
    windows: int = 8
    tenant_jobs: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    max_audio_s: float = 86_400.0
    max_source_bytes: int = 2 << 30


class Stop(Enum):
    """Why a job's work was stopped from outside."""

    CANCELLED = auto()
    DRAINED = auto()
    LEASE_LOST = auto()


@dataclass(slots=True)
class _Running:
    claim: Claim
    work: asyncio.Task[None] | None = None
    stop: Stop | None = None

    def end(self, why: Stop) -> None:
        """Stop the work; the first reason counts."""
        if self.stop is None and self.work:
            self.stop = why
            self.work.cancel()


class Runner:
    """Pulls jobs as long as it is started. Several run side by side, on any node."""

    def __init__(
        self, name: str, store: Store, stages: Stages, artifacts: Artifacts, sweeper: Sweeper, limits: RunnerLimits
    ) -> None:
        self._name = name
        self._store = store
        self._stages = stages
        self._artifacts = artifacts
        self._sweeper = sweeper
        self._limits = limits
        self._running: dict[str, _Running] = {}
        self._serving: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._work = asyncio.Event()

    @property
    def jobs(self) -> int:
        """How many jobs it works on now."""
        return len(self._running)

    async def start(self) -> None:
        """Begin to claim."""
        self._loops = [asyncio.create_task(loop) for loop in (self._claiming(), self._listening(), self._sweeper.run())]

    @property
    def well(self) -> bool:
        """Whether it still looks for work."""
        return not any(loop.done() for loop in self._loops)

    async def stop(self) -> None:
        """Claim no more, and give back at once what is not finished."""
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for running in self._running.values():
            running.end(Stop.DRAINED)
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _claiming(self) -> None:
        weighed = False
        while True:
            self._work.clear()
            try:
                if not weighed:
                    await self._store.leases.set_weights(self._limits.weights)
                    weighed = True
                while len(self._running) < self._limits.jobs and await self._claim():
                    pass
            except StoreUnavailable as outage:
                log.warning("no jobs claimed: %s", outage)
            except Exception:  # a runner that claims no more would look well and do nothing
                log.exception("no jobs claimed")
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await self._work.wait()

    async def _claim(self) -> bool:
        """Take a job, if one waits; one that is taken while the runner stops is given back."""
        claiming = asyncio.ensure_future(self._store.leases.claim(self._name, self._limits.tenant_jobs))
        try:
            claim = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            if late := await claiming:
                await self._store.leases.give_back(late)
            raise
        if claim:
            self._begin(claim)
        return claim is not None

    async def _listening(self) -> None:
        """Hear of new work, and of cancels of what runs here."""
        while True:
            try:
                async with self._store.events.subscribe("work", "cancel") as heard:
                    async for channel, job_id in heard:
                        self._work.set()
                        if channel == "cancel" and job_id in self._running:
                            self._running[job_id].end(Stop.CANCELLED)
            except StoreUnavailable as outage:
                log.warning("deaf for a moment: %s", outage)
                await asyncio.sleep(0.5)

    def _begin(self, claim: Claim) -> None:
        if stale := self._running.get(claim.job_id):
            # Our own lease ran out, while the machine slept say, and the job has come to us again.
            stale.end(Stop.LEASE_LOST)
        running = self._running[claim.job_id] = _Running(claim)
        serving = asyncio.create_task(self._serve(running))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, running: _Running) -> None:
        """Work on a job while its lease is renewed; then settle what became of it."""
        claim = running.claim
        running.work = asyncio.create_task(self._drive(claim))
        renewing = asyncio.create_task(self._renew(running))
        try:
            await asyncio.wait([running.work])
            await self._settle(running, running.work)
            await delete_audio(self._store, self._artifacts, await self._store.jobs.get(claim.job_id))
        except StoreUnavailable as outage:
            log.warning("job_id=%s left to its lease: %s", claim.job_id, outage)
        finally:
            renewing.cancel()
            if self._running.get(claim.job_id) is running:
                del self._running[claim.job_id]
            self._work.set()

    async def _renew(self, running: _Running) -> None:
        while True:
            await asyncio.sleep(self._store.leases.lease_s / 3)
            try:
                state = await self._store.leases.renew(running.claim)
            except StoreUnavailable:
                continue
            if state is LeaseState.LOST:
                running.end(Stop.LEASE_LOST)
            elif state is LeaseState.CANCELLING:
                running.end(Stop.CANCELLED)

    async def _settle(self, running: _Running, work: asyncio.Task[None]) -> None:
        claim = running.claim
        if work.cancelled():
            if running.stop is Stop.CANCELLED:
                await self._store.leases.finish(claim, Phase.CANCELLED)
            elif running.stop is Stop.DRAINED:
                await self._store.leases.give_back(claim)
            return
        error = work.exception()
        if isinstance(error, CancelRequested):
            await self._store.leases.finish(claim, Phase.CANCELLED)
        elif error is not None and not isinstance(error, LeaseLost):
            await self._fail(claim, error)

    async def _fail(self, claim: Claim, error: BaseException) -> None:
        job = await self._store.jobs.get(claim.job_id)
        if isinstance(error, WorkError):
            told, transient = JobError(error.code, error.message), error.transient
        else:
            log.error("job_id=%s failed", claim.job_id, exc_info=error)
            told, transient = JobError("internal", "The service failed while working on this job: try it again."), True
        lost = isinstance(error, StageLost)
        if job and job.next_model and _is_the_models(error, last=job.attempts >= job.spec.max_attempts):
            log.warning("job_id=%s goes on with the model %s: %s", claim.job_id, job.next_model, told.message)
            await self._store.leases.give_back(claim, model=job.next_model)
        elif job and transient and (lost or job.attempts < job.spec.max_attempts):
            delay_s = min(2.0 ** (job.attempts + job.setbacks), LONGEST_DELAY_S) * random.uniform(0.75, 1.25)
            log.warning("job_id=%s again in %.1f s: %s", claim.job_id, delay_s, told.message)
            await self._store.leases.give_back(claim, delay_s=delay_s, cost=_cost(error))
        else:
            await self._store.leases.finish(claim, Phase.FAILED, told)

    async def _drive(self, claim: Claim) -> None:
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
        # Asked before the transcript is written: a worker that slept past its lease must not write over a good one.
        if not await self._store.leases.note_audio(claim, done_s=duration_s):
            raise LeaseLost
        key = transcript_key(job.id, claim.token)
        language = await write_transcript(self._artifacts, key, segments_of(self._store, job.id), duration_s)
        if not await self._store.leases.finish(claim, Phase.COMPLETED, language=language):
            raise LeaseLost

    async def _ingest(self, job: Job) -> None:
        """An upload lies there already; what lies elsewhere is fetched."""
        key = job.source
        if job.spec.url is not None:
            most, spec = self._limits.max_source_bytes, job.spec
            stored = await self._stages.fetch(FetchRequest(job.spec.url, key, most, spec.user_agent, spec.drive))
            if spec.file is not None:
                await self._store.jobs.file_stored(spec.file, stored.size)
        elif await asyncio.to_thread(self._artifacts.size, key) is None:
            raise SourceNotFound("The uploaded file is no longer there: send it again.")


def _is_the_models(error: BaseException, *, last: bool) -> bool:
    """Whether another model may do what this one did not. One that cannot be had at the moment gets its attempts first."""
    return isinstance(error, EngineFailed | ModelUnavailable | PoisonPill) or (last and isinstance(error, StageUnavailable))


def _cost(error: BaseException) -> AttemptCost:
    """What an attempt that ended so is held against the job as."""
    if isinstance(error, StageDied):
        return AttemptCost.STALL
    return AttemptCost.LOSS if isinstance(error, StageLost) else AttemptCost.ATTEMPT
