"""Upkeep that any runner may do, as often as it likes: expired leases, expired results, streams nobody needs."""

from __future__ import annotations

import asyncio
import logging

from deployments.artifacts import Artifacts
from serve_app.jobs.connection import OUTAGES
from serve_app.jobs.jobs import purge
from serve_app.jobs.store import Store

log = logging.getLogger(__name__)


class Sweeper:
    """Sweeps every `period_s`; a stream is kept for `stream_grace_s` after its job has ended."""

    def __init__(self, store: Store, artifacts: Artifacts, *, period_s: float, stream_grace_s: float) -> None:
        self._store = store
        self._artifacts = artifacts
        self._period_s = period_s
        self._stream_grace_s = stream_grace_s

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
        for job_id in await self._store.expired():
            await purge(self._store, self._artifacts, job_id)
