"""class Sweeper: upkeep of expired leases, results, event streams and audio."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from uuid import uuid4

from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.removal import delete_audio
from serve_app.runner.loops import every
from serve_app.runner.orphans import ORPHAN_AGE_S, OrphanSweep
from serve_app.store.redis_store import Store
from serve_app.store.upkeep_store import SWEEP_LIMIT, DueList

log = logging.getLogger(__name__)

ROLE = "sweeper"
LEAD_S = 30.0  # the leadership of a process that died ends after this
ORPHANS_EVERY_S = 3600.0
# Audio of a private job is deleted again this long after its end, because a worker may still have been writing.
STRAGGLER_S = 30.0
REWRITE_EVERY_S = 900.0
REMOVALS_AT_ONCE = 8


class Sweeper:
    """Periodic upkeep. Every process takes back expired leases; one at a time, the leader, does the rest."""

    def __init__(
        self,
        store: Store,
        artifacts: Artifacts,
        *,
        period_s: float,
        stream_grace_s: float,  # event streams outlive their jobs' end by this
        audio_ttl_s: float = 0.0,  # so does audio; 0: as long as the results
        lead_s: float = LEAD_S,
    ) -> None:
        self._store = store
        self._upkeep = store.upkeep
        self._artifacts = artifacts
        self._period_s = period_s
        self._stream_grace_s = stream_grace_s
        self._audio_ttl_s = audio_ttl_s
        self._lead_s = max(lead_s, 3 * period_s)
        self._name = uuid4().hex
        self._leads = False
        self._orphans = OrphanSweep(store, artifacts)
        self._rewrite_refused = False

    async def run(self) -> None:
        """Sweep until cancelled."""
        # A loop for each kind: deletes that are slow or fail delay nothing else.
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(every(self._period_s, self._reap, "sweep of leases"))
                loops.create_task(every(self._lead_s / 3, self._lead, "leadership of sweepers"))
                for name, step in self._steps().items():
                    loops.create_task(every(self._period_s, self._as_leader(step), f"sweep of {name}"))
                loops.create_task(every(ORPHANS_EVERY_S, self._sweep_orphans, "sweep of orphans"))
        finally:
            if self._leads:
                self._leads = False
                with suppress(StoreUnavailable):
                    await self._upkeep.step_down(ROLE, self._name)

    async def sweep(self) -> None:
        """Do all upkeep but that of orphans once, whoever leads."""
        await self._reap()
        for step in self._steps().values():
            await step()

    async def sweep_orphans(self, min_age_s: float = ORPHAN_AGE_S) -> int:
        """Delete folders without a job or file that are older than `min_age_s`; returns how many."""
        return await self._orphans.sweep(min_age_s)

    def _steps(self) -> dict[str, Callable[[], Awaitable[None]]]:
        return {
            "streams": self._drop_streams,
            "private jobs": self._settle_private,
            "expired results": self._expire,
            "audio": self._drop_audio,
            "deleted files": self._remove_files,
            "deliveries": self._expire_deliveries,
        }

    def _as_leader(self, step: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        async def lead() -> None:
            if self._leads:
                await step()

        return lead

    async def _lead(self) -> None:
        leads = await self._upkeep.lead(ROLE, self._name, self._lead_s)
        if leads and not self._leads:
            log.info("this runner is now the leader of the sweepers")
        self._leads = leads

    async def _reap(self) -> None:
        if requeued := await self._store.leases.reap():
            log.warning("leases expired, %d jobs requeued", requeued)

    async def _drop_streams(self) -> None:
        while await self._upkeep.drop_old_streams(self._stream_grace_s) == SWEEP_LIMIT:
            pass

    async def _expire(self) -> None:
        while await self._upkeep.expire() == SWEEP_LIMIT:
            pass

    async def _drop_audio(self) -> None:
        while await self._upkeep.drop_audio(self._audio_ttl_s) == SWEEP_LIMIT:
            pass

    async def _expire_deliveries(self) -> None:
        while await self._upkeep.expire_deliveries() == SWEEP_LIMIT:
            pass

    async def _settle_private(self) -> None:
        for job_id in await self._upkeep.private_ended(STRAGGLER_S):
            await self._guarded(self._settle(job_id), DueList.PRIVATE, job_id, STRAGGLER_S)
        if not await self._upkeep.rewrite_log(REWRITE_EVERY_S) and not self._rewrite_refused:
            self._rewrite_refused = True
            log.warning(
                "Redis refuses BGREWRITEAOF: URLs of private jobs stay in its append-only file until it is rewritten"
            )

    async def _settle(self, job_id: str) -> None:
        await delete_audio(self._store, self._artifacts, await self._store.jobs.get(job_id))
        await self._upkeep.private_settled(job_id)

    async def _remove_files(self) -> None:
        free = asyncio.Semaphore(REMOVALS_AT_ONCE)

        async def remove(prefix: str) -> None:
            async with free:
                await self._guarded(self._remove(prefix), DueList.REMOVALS, prefix)

        prefixes = await self._upkeep.removals()
        for outcome in await asyncio.gather(*map(remove, prefixes), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _remove(self, prefix: str) -> None:
        await self._artifacts.threads.run(self._artifacts.delete, prefix)
        await self._upkeep.removed(prefix)

    async def _guarded(self, work: Awaitable[None], due: DueList, member: str, grace_s: float = 0.0) -> None:
        # Work on one member of a list that fails is due again later, and the others go on.
        try:
            await work
        except StoreUnavailable:
            raise
        except Exception:  # one member's trouble must not stop the others
            delay_s = await self._upkeep.postpone(due, member, grace_s)
            log.exception("job_id=%s sweep of %s %s failed, retrying in %g s", _job_id(member), due, member, delay_s)

    async def _sweep_orphans(self) -> None:
        if self._leads:
            await self.sweep_orphans()


def _job_id(member: str) -> str:
    return member.removeprefix("jobs/").partition("/")[0]
