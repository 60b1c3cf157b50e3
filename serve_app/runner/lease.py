"""class Lease: a Runner's hold on a job, and what it writes under it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from serve_app.jobs.removal import delete_url
from serve_app.models.job import Job, JobError, JobWarning, Phase
from serve_app.models.lease import AttemptCost, Claim, Commit, CommitOutcome
from serve_app.runner.patience import Patience
from serve_app.store.redis_store import Store

T = TypeVar("T")


class LeaseLost(Exception):
    """Another worker may hold the job: nothing more is written."""


class Lease:
    """Every write waits until Redis answers, and raises LeaseLost if it answers that another worker holds the job."""

    # A write whose reply was lost is repeated: a commit is idempotent, and after a `finish` the lease is gone.

    def __init__(self, store: Store, claim: Claim, patience: Patience) -> None:
        self._store = store
        self.claim = claim
        self._patience = patience

    async def job(self) -> Job | None:
        return await self._insist(lambda: self._store.jobs.get(self.claim.job_id), "read")

    async def enter(self, phase: Phase) -> None:
        await self._write(lambda: self._store.leases.enter(self.claim, phase), "phase")

    async def note_audio(
        self,
        *,
        declared_s: float | None = None,
        total_s: float | None = None,
        done_s: float | None = None,
        channels: int | None = None,
    ) -> None:
        """See LeaseStore.note_audio."""
        facts = {"declared_s": declared_s, "total_s": total_s, "done_s": done_s}
        await self._write(lambda: self._store.leases.note_audio(self.claim, channels=channels, **facts), "progress")

    async def commit(self, commit: Commit) -> CommitOutcome:
        outcome = await self._insist(lambda: self._store.leases.commit(self.claim, commit), "commit")
        if outcome is CommitOutcome.LOST:
            raise LeaseLost
        return outcome

    async def warn(self, warning: JobWarning) -> None:
        """Add a warning to the job, unless it has the same already."""
        await self._write(lambda: self._store.leases.warn(self.claim, warning), "warning")

    async def file_stored(self, file_id: str, size: int) -> None:
        await self._insist(lambda: self._store.jobs.file_stored(file_id, size), "file record")

    async def delete_url(self, job: Job) -> None:
        await self._write(lambda: delete_url(self._store, job, self.claim), "deletion of the URL")

    async def restart(self) -> None:
        """Drop what was committed."""
        await self._write(lambda: self._store.leases.restart(self.claim), "restart")

    async def finish(
        self, phase: Phase, error: JobError | None = None, *, language: str | None = None, partial: bool = False
    ) -> None:
        """End the job; `partial` if the transcript of one that is not completed is stored under the claim's token."""
        await self._write(lambda: self._store.leases.finish(self.claim, phase, error, language, partial=partial), "end")

    async def give_back(self, *, delay_s: float = 0.0, cost: AttemptCost = AttemptCost.NOTHING, model: str = "") -> None:
        await self._write(
            lambda: self._store.leases.give_back(self.claim, delay_s=delay_s, cost=cost, model=model), "return to the queue"
        )

    async def _write(self, step: Callable[[], Awaitable[bool]], name: str) -> None:
        if not await self._insist(step, name):
            raise LeaseLost

    async def _insist(self, step: Callable[[], Awaitable[T]], name: str) -> T:
        return await self._patience.insist(step, self.claim.job_id, name)
