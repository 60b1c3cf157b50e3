"""class Sweeper: upkeep of expired leases, results and streams, and of orphaned files."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.jobs.removal import delete_audio, delete_job, purge_results
from serve_app.models.storage_paths import FILES, JOBS
from serve_app.runner.loops import every
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

ORPHANS_EVERY_S = 3600.0
ORPHAN_AGE_S = 3600.0  # younger folders may be uploads in progress
# Audio of a private job is deleted again this long after its end, because a worker may still have been writing.
STRAGGLER_S = 30.0


class Sweeper:
    """Periodic upkeep, which any number of processes may do."""

    def __init__(self, store: Store, artifacts: Artifacts, *, period_s: float, stream_grace_s: float) -> None:
        self._store = store
        self._artifacts = artifacts
        self._period_s = period_s
        self._stream_grace_s = stream_grace_s  # event streams outlive their jobs' end by this
        self._orphans_at = time.monotonic() + random.uniform(0.5, 1.0) * ORPHANS_EVERY_S

    async def run(self) -> None:
        await every(self._period_s, self.sweep, "sweep")

    async def sweep(self) -> None:
        if requeued := await self._store.leases.reap():
            log.warning("leases expired, %d jobs requeued", requeued)
        await self._store.leases.drop_old_streams(self._stream_grace_s)
        for job_id in await self._store.leases.private_ended(STRAGGLER_S):
            await delete_audio(self._store, self._artifacts, await self._store.jobs.get(job_id))
            await self._store.leases.private_settled(job_id)
        for job_id in await self._store.leases.expired():
            await self._expire(job_id)
        if time.monotonic() >= self._orphans_at:
            self._orphans_at = time.monotonic() + ORPHANS_EVERY_S
            await self.sweep_orphans()

    async def _expire(self, job_id: str) -> None:
        try:
            job = await self._store.jobs.get(job_id)
            if job and job.spec.record_ttl_s and job.purged_at is None:
                await purge_results(self._store, self._artifacts, job)  # refused if another sweeper was faster
            else:
                await delete_job(self._store, self._artifacts, job_id)
        except StoreUnavailable:
            raise
        except RequestError:  # retried meanwhile
            pass
        except Exception:  # a record that cannot be parsed must not stop the others from expiring
            log.exception("job_id=%s expiry failed, deleting the job", job_id)
            await delete_job(self._store, self._artifacts, job_id)

    async def sweep_orphans(self, min_age_s: float = ORPHAN_AGE_S) -> int:
        """Delete folders without a job or file that are older than `min_age_s`; returns how many."""
        removed = 0
        for root, exist in ((JOBS, self._jobs_exist), (FILES, self._files_exist)):
            folders = await asyncio.to_thread(self._artifacts.folders, root)
            for start in range(0, len(folders), 500):
                batch = folders[start : start + 500]
                needed = await exist([folder.rpartition("/")[2] for folder in batch])
                for folder in (folder for folder, is_needed in zip(batch, needed, strict=True) if not is_needed):
                    if await asyncio.to_thread(self._artifacts.age_s, folder) > min_age_s:
                        await asyncio.to_thread(self._artifacts.delete, folder)
                        removed += 1
        if removed:
            log.warning("removed %d orphaned folders", removed)
        unfinished = await self._artifacts.threads.run(self._artifacts.delete_unfinished, min_age_s)
        if unfinished:
            log.warning("removed %d files that writers left unfinished", unfinished)
        return removed

    async def _jobs_exist(self, ids: list[str]) -> list[bool]:
        # A purged job's folder can only have been written by a straggler.
        return [job is not None and job.purged_at is None for job in await self._store.jobs.get_many(ids)]

    async def _files_exist(self, ids: list[str]) -> list[bool]:
        return [file is not None and file.deleted_at is None for file in await self._store.jobs.files(ids)]
