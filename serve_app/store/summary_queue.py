"""Queue of jobs to summarise."""

from __future__ import annotations

from serve_app.models.job import SummaryState
from serve_app.store.scripts import Scripts


class SummaryQueue:
    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def take(self, limit: int, hold_s: float) -> list[str]:
        """Claim up to `limit` job ids with a visibility timeout of `hold_s`."""
        if limit <= 0:
            return []
        return [job_id.decode() for job_id in await self._scripts.run("summary_take", limit, int(hold_s * 1000))]

    async def note(self, job_id: str, state: SummaryState, error: str = "", wait_s: float = 0.0) -> bool:
        """Record an attempt; a PENDING one is due after `wait_s`. False if the job is gone."""
        return bool(await self._scripts.run("summary_note", job_id, state, error, int(wait_s * 1000)))
