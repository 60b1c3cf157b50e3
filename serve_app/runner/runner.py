"""class Runner: claim jobs, run them under a lease, finish them or give them back."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto

from deployments.errors import (
    EngineFailed,
    ModelUnavailable,
    PoisonPill,
    StageDied,
    StageLost,
    StageUnavailable,
    StorageFull,
    StorageUnavailable,
    WorkError,
)
from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.removal import delete_audio
from serve_app.models.job import Job, JobError, Phase
from serve_app.models.lease import AttemptCost, Claim, LeaseState
from serve_app.runner.attempt import Attempt
from serve_app.runner.deadlines import DeadlineRules, TimedStages
from serve_app.runner.downloads import Downloads, Postponed
from serve_app.runner.lease import Lease, LeaseLost
from serve_app.runner.lease_keeper import LeaseKeeper
from serve_app.runner.limits import RunnerLimits
from serve_app.runner.loops import every
from serve_app.runner.patience import Patience
from serve_app.runner.pipeline import CancelRequested, ShareUsed
from serve_app.runner.stages import Stages
from serve_app.runner.sweeper import Sweeper
from serve_app.runner.window_decoder import ModelAway
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

LONGEST_DELAY_S = 60.0
OUTAGE_DELAY_S = 60.0
IDLE_S = 1.0  # claims are attempted this often without a notification
POSTPONED_S = 0.5  # a refused download keeps its slot for so long, so that a long queue of them costs few claims


class StopReason(Enum):
    CANCELLED = auto()
    DRAINED = auto()
    LEASE_LOST = auto()


@dataclass(slots=True)
class _Running:
    claim: Claim
    work: asyncio.Task[None] | None = None
    stopped: StopReason | None = None  # the first reason counts
    downloading: bool = False  # takes no slot

    def stop(self, reason: StopReason) -> None:
        if self.stopped is None and self.work:
            self.stopped = reason
            self.work.cancel()


class Runner:
    """Worker that pulls jobs. Several run side by side, on any node."""

    def __init__(
        self,
        name: str,
        store: Store,
        stages: Stages,
        artifacts: Artifacts,
        sweeper: Sweeper,
        limits: RunnerLimits,
        deadlines: DeadlineRules | None = None,
    ) -> None:
        self._name = name
        self._store = store
        self._stages = TimedStages(stages, deadlines)
        self._artifacts = artifacts
        self._sweeper = sweeper
        self._limits = limits
        self._patience = Patience()
        self._downloads = Downloads(limits.downloads, limits.tenant_downloads)
        self._keeper = LeaseKeeper(store, self._on_lease)
        self._running: dict[str, _Running] = {}  # by job id
        self._serving: set[asyncio.Task[None]] = set()
        self._loops: list[asyncio.Task[None]] = []
        self._wake = asyncio.Event()  # a job may be waiting, or there is room for one
        self._weights_set = False

    @property
    def jobs(self) -> int:
        """Slots in use."""
        return sum(not running.downloading for running in self._running.values())

    @property
    def free(self) -> int:
        """Jobs that may be claimed now: none while the storage is full."""
        return 0 if self._patience.storage_full else max(self._limits.jobs - self.jobs, 0)

    async def start(self) -> None:
        self._weights_set = False
        self._patience.ending = False
        self._keeper.start()
        claiming = every(IDLE_S, self._claim_jobs, "job queue", self._wake)
        listening = self._store.events.listen("work", "cancel", on_message=self._on_message)
        self._loops = [asyncio.create_task(loop) for loop in (claiming, listening, self._sweeper.run())]
        for loop in self._loops:
            loop.add_done_callback(_log_end)

    @property
    def healthy(self) -> bool:
        """Whether all background loops and the lease thread run."""
        return not self._loops or (self._keeper.healthy and not any(loop.done() for loop in self._loops))

    async def stop(self) -> None:
        """Stop claiming, and give back unfinished jobs."""
        self._patience.ending = True
        loops, self._loops = self._loops, []
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for running in self._running.values():
            running.stop(StopReason.DRAINED)
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._keeper.stop()

    async def _claim_jobs(self) -> None:
        if not self._weights_set:
            await self._store.leases.set_weights(self._limits.weights)
            self._weights_set = True
        try:
            await self._artifacts.threads.run(self._artifacts.require_space)
        except StorageFull as full:
            self._patience.found_full(full, 2 * IDLE_S)  # it is measured again before that
        while self.free and await self._claim():
            pass

    async def _claim(self) -> bool:
        claiming = asyncio.ensure_future(
            self._store.leases.claim(self._name, self._limits.tenant_jobs, self.free, self._limits.reserve)
        )
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
        if channel == "cancel" or job_id in ("", self._name):  # `work` names the Runner to wake, or none for all
            self._wake.set()
        if channel == "cancel" and job_id in self._running:
            self._running[job_id].stop(StopReason.CANCELLED)

    def _on_lease(self, claim: Claim, state: LeaseState) -> None:
        running = self._running.get(claim.job_id)
        if running and running.claim == claim:
            running.stop(StopReason.LEASE_LOST if state is LeaseState.LOST else StopReason.CANCELLED)

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
        lease = Lease(self._store, claim, self._patience)
        attempt = self._attempt(lease)
        self._keeper.hold(claim)
        running.work = asyncio.create_task(attempt.run(lambda job: self._downloading(running, job)))
        try:
            await asyncio.wait([running.work])
            with suppress(LeaseLost):
                await self._settle(running, running.work, lease, attempt)
            await delete_audio(self._store, self._artifacts, await lease.job())
        except (StoreUnavailable, StorageUnavailable) as outage:
            log.warning("job_id=%s outage, job will be reclaimed when its lease expires: %s", claim.job_id, outage)
        except Exception:  # nobody awaits this task
            log.exception("job_id=%s could not be settled, job will be reclaimed when its lease expires", claim.job_id)
        finally:
            self._keeper.release(claim)
            if self._running.get(claim.job_id) is running:
                del self._running[claim.job_id]
            self._wake.set()

    def _attempt(self, lease: Lease) -> Attempt:
        limits = self._limits
        return Attempt(
            self._store,
            self._stages,
            self._artifacts,
            lease,
            self._patience,
            max_audio_s=limits.max_audio_s,
            max_source_bytes=limits.max_source_bytes,
            windows=limits.windows,
        )

    @contextmanager
    def _downloading(self, running: _Running, job: Job) -> Iterator[None]:
        """Leave the slot to another job meanwhile. Raises Postponed if all are taken afterwards."""
        with self._downloads.place(job.id, job.tenant):
            running.downloading = True
            self._wake.set()
            yield
        # Its source is stored now: in the queue it takes its turn beside the jobs of other tenants.
        if self.jobs >= self._limits.jobs:
            raise Postponed
        running.downloading = False

    async def _settle(self, running: _Running, work: asyncio.Task[None], lease: Lease, attempt: Attempt) -> None:
        if work.cancelled():
            if running.stopped is StopReason.CANCELLED:
                await lease.finish(Phase.CANCELLED, partial=await attempt.write_partial())
            elif running.stopped is StopReason.DRAINED:
                await lease.give_back()
            return
        error = work.exception()
        if isinstance(error, CancelRequested):
            await lease.finish(Phase.CANCELLED, partial=await attempt.write_partial())
        elif isinstance(error, ShareUsed):
            await lease.give_back()
        elif isinstance(error, Postponed):
            if error.delay_s:
                await asyncio.sleep(POSTPONED_S)
            await lease.give_back(delay_s=error.delay_s)
        elif error is not None and not isinstance(error, LeaseLost):
            await self._fail(error, lease, attempt)

    async def _fail(self, error: BaseException, lease: Lease, attempt: Attempt) -> None:
        """Continue with a fallback model, retry with back-off, or fail the job."""
        job = await lease.job()
        job_id = lease.claim.job_id
        if isinstance(error, WorkError):
            reason, transient = JobError(error.code, error.message), error.transient
        else:
            log.error("job_id=%s failed", job_id, exc_info=error)
            reason = JobError("internal", "The service failed while working on this job: try it again.")
            transient = True
        if job and job.next_model and isinstance(error, EngineFailed | ModelUnavailable | PoisonPill | ModelAway):
            log.warning("job_id=%s model failed, continuing with %s: %s", job_id, job.next_model, reason.message)
            await lease.give_back(model=job.next_model)
        elif isinstance(error, StoreUnavailable | StorageUnavailable | StageUnavailable):
            log.warning("job_id=%s outage goes on, job goes back to the queue at no cost: %s", job_id, error)
            await lease.give_back(delay_s=OUTAGE_DELAY_S * random.uniform(0.75, 1.25))
        elif job and transient and (isinstance(error, StageLost) or job.attempts_left > 0):
            delay_s = min(2.0 ** min(job.attempts - job.forgiven + job.setbacks, 10), LONGEST_DELAY_S) * random.uniform(
                0.75, 1.25
            )
            log.warning("job_id=%s attempt failed, retrying in %.1f s: %s", job_id, delay_s, reason.message)
            await lease.give_back(delay_s=delay_s, cost=_cost(error))
        else:
            await lease.finish(Phase.FAILED, reason, partial=await attempt.write_partial())


def _log_end(loop: asyncio.Task[None]) -> None:
    if not loop.cancelled() and (error := loop.exception()):
        log.error("background loop ended, the Runner counts as unhealthy and is replaced", exc_info=error)


def _cost(error: BaseException) -> AttemptCost:
    if isinstance(error, StageDied):
        return AttemptCost.STALL
    return AttemptCost.LOSS if isinstance(error, StageLost) else AttemptCost.ATTEMPT
