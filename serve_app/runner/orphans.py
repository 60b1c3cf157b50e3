"""class OrphanSweep: deletion of folders in the storage that belong to no job and to no file."""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence

from deployments.storage.artifacts import Artifacts
from serve_app.models.storage_paths import FILES, JOBS
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

ORPHAN_AGE_S = 3600.0  # younger folders may be uploads in progress
BATCH = 500
PAUSE_S = 0.05  # between two batches: nobody waits for this

Needed = Callable[[Sequence[str]], Awaitable[list[bool]]]


class OrphanSweep:
    """Walk over all folders, in batches. One that was interrupted is continued by the next."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._cursors: dict[str, str] = {}  # last folder looked at, by root

    async def sweep(self, min_age_s: float = ORPHAN_AGE_S) -> int:
        """Delete orphans older than `min_age_s`; returns how many."""
        removed = 0
        for root, needed in ((JOBS, self._store.upkeep.jobs_keep_files), (FILES, self._store.upkeep.files_needed)):
            removed += await self._walk(root, needed, min_age_s)
        if removed:
            log.warning("removed %d orphaned folders", removed)
        if unfinished := await self._artifacts.threads.run(self._artifacts.delete_unfinished, min_age_s):
            log.warning("removed %d files that writers left unfinished", unfinished)
        return removed

    async def _walk(self, root: str, needed: Needed, min_age_s: float) -> int:
        folders = sorted(await self._artifacts.threads.run(self._artifacts.folders, root))
        start, removed = bisect_right(folders, self._cursors.get(root, "")), 0
        while start < len(folders):
            batch = folders[start : start + BATCH]
            keep = await needed([folder.rpartition("/")[2] for folder in batch])
            for folder, is_needed in zip(batch, keep, strict=True):
                removed += not is_needed and await self._remove(folder, min_age_s)
            self._cursors[root] = batch[-1]
            start += len(batch)
            await asyncio.sleep(PAUSE_S)
        self._cursors.pop(root, None)
        return removed

    async def _remove(self, folder: str, min_age_s: float) -> bool:
        try:
            if await self._artifacts.threads.run(self._artifacts.age_s, folder) <= min_age_s:
                return False
            await self._artifacts.threads.run(self._artifacts.delete, folder)
        except Exception:  # one folder's trouble must not stop the others
            log.exception("orphaned folder %s not deleted, retrying at the next sweep", folder)
            return False
        return True
