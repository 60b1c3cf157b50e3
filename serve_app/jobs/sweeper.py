"""Upkeep that any runner may do, as often as it likes: expired leases, expired results, streams nobody needs."""

from __future__ import annotations

import asyncio
import logging
import random
import time

from deployments.artifacts import Artifacts
from serve_app.jobs.connection import OUTAGES
from serve_app.jobs.jobs import purge
from serve_app.jobs.models import JOBS
from serve_app.jobs.private import forget
from serve_app.jobs.store import Store

log = logging.getLogger(__name__)

ORPHANS_EVERY_S = 3600.0
ORPHAN_S = 3600.0
STRAGGLER_S = 30.0
"""What is removed when a private job ends is removed once more after this: a worker may have been writing still."""
"""What nobody has written to for so long is no upload under way."""


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
            except OUTAGES as outage:
                log.warning("not swept: %s", outage)
            except Exception:  # upkeep that ends would leave dead workers' jobs where they are
                log.exception("not swept")
            await asyncio.sleep(self._period_s)

    async def sweep(self) -> None:
        """Once."""
        if taken := await self._store.reap():
            log.warning("%d jobs taken back from workers that went silent", taken)
        await self._store.drop_old_streams(self._stream_grace_s)
        for job_id in await self._store.to_forget(STRAGGLER_S):
            await forget(self._store, self._artifacts, await self._store.get(job_id))
            await self._store.forgotten(job_id)
        for job_id in await self._store.expired():
            await purge(self._store, self._artifacts, job_id)
        if time.monotonic() >= self._orphans_at:
            self._orphans_at = time.monotonic() + ORPHANS_EVERY_S
            await self.sweep_orphans()

    async def sweep_orphans(self, untouched_s: float = ORPHAN_S) -> int:
        """Remove what was stored for jobs that are not: their request died before there was one, or a worker that was
        stopped for long went on after they were purged. Nothing younger than `untouched_s`; returns how many."""
        folders = await asyncio.to_thread(self._artifacts.folders, JOBS)
        swept = 0
        for start in range(0, len(folders), 500):
            some = folders[start : start + 500]
            jobs = await self._store.get_many([folder.rpartition("/")[2] for folder in some])
            for folder, job in zip(some, jobs, strict=True):
                if job is None and await asyncio.to_thread(self._artifacts.age_s, folder) > untouched_s:
                    await asyncio.to_thread(self._artifacts.delete, folder)
                    swept += 1
        if swept:
            log.warning("removed what was stored for %d jobs that are not", swept)
        return swept
