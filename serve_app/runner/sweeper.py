"""Upkeep that any runner may do, as often as it likes: expired leases, expired results, streams nobody needs."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.jobs.removal import delete_audio, delete_job, purge_results
from serve_app.models.storage_paths import FILES, JOBS
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

ORPHANS_EVERY_S = 3600.0
ORPHAN_S = 3600.0
"""What nobody has written to for so long is no upload under way."""
STRAGGLER_S = 30.0
"""What is removed when a private job ends is removed once more after this: a worker may have been writing still."""


class Sweeper:
    """Sweeps every `period_s`; a stream is kept for `stream_grace_s` after its job has ended."""

    def __init__(self, store: Store, artifacts: Artifacts, *, period_s: float, stream_grace_s: float) -> None:
        self._store = store
        self._artifacts = artifacts
        self._period_s = period_s
        self._stream_grace_s = stream_grace_s
        self._orphans_at = time.monotonic() + random.uniform(0.5, 1.0) * ORPHANS_EVERY_S

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except StoreUnavailable as outage:
                log.warning("not swept: %s", outage)
            except Exception:  # upkeep that ends would leave dead workers' jobs where they are
                log.exception("not swept")
            await asyncio.sleep(self._period_s)

    async def sweep(self) -> None:
        """Once."""
        if taken := await self._store.leases.reap():
            log.warning("%d jobs taken back from workers that went silent", taken)
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
        """A job whose time is up goes, or leaves its record for another while. One that cannot be read keeps no other."""
        try:
            job = await self._store.jobs.get(job_id)
            if job and job.spec.record_ttl_s and job.purged_at is None:
                await purge_results(self._store, self._artifacts, job)  # unless another sweeper was first
            else:
                await delete_job(self._store, self._artifacts, job_id)
        except StoreUnavailable:
            raise
        except RequestError:  # it was tried again meanwhile
            pass
        except Exception:
            log.exception("job_id=%s could not expire as it should, and goes", job_id)
            await delete_job(self._store, self._artifacts, job_id)

    async def sweep_orphans(self, untouched_s: float = ORPHAN_S) -> int:
        """Remove what was stored for jobs and files that are not: their request died before there was one, or a worker that
        was stopped for long went on after they were purged. Nothing younger than `untouched_s`; returns how many."""
        swept = 0
        for root, known in ((JOBS, self._jobs), (FILES, self._files)):
            folders = await asyncio.to_thread(self._artifacts.folders, root)
            for start in range(0, len(folders), 500):
                some = folders[start : start + 500]
                there = await known([folder.rpartition("/")[2] for folder in some])
                for folder, needed in zip(some, there, strict=True):
                    if not needed and await asyncio.to_thread(self._artifacts.age_s, folder) > untouched_s:
                        await asyncio.to_thread(self._artifacts.delete, folder)
                        swept += 1
        if swept:
            log.warning("removed what was stored for %d jobs and files that are not", swept)
        return swept

    async def _jobs(self, ids: list[str]) -> list[bool]:
        """Those whose results are kept; what a straggler has written of others is nobody's."""
        return [job is not None and job.purged_at is None for job in await self._store.jobs.get_many(ids)]

    async def _files(self, ids: list[str]) -> list[bool]:
        return [file is not None and file.deleted_at is None for file in await self._store.jobs.files(ids)]
