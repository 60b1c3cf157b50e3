"""Queue of jobs to summarise, filled by the script that completes a job."""

from __future__ import annotations

from serve_app.models.job import SummaryState
from serve_app.store.scripts import Scripts


class SummaryQueue:
    """Due summaries, claimed with a visibility timeout."""

    def __init__(self, scripts: Scripts) -> None:
        self._scripts = scripts

    async def take(self, limit: int, hold_s: float) -> list[str]:
        """Ids of up to `limit` jobs to summarise, invisible to other workers for `hold_s` seconds."""
        if limit <= 0:
            return []
        return [job_id.decode() for job_id in await self._scripts.run("summary_take", limit, int(hold_s * 1000))]

    async def note(self, job_id: str, state: SummaryState, error: str = "", wait_s: float = 0.0) -> bool:
        """Record the outcome of an attempt; a PENDING one is due again after `wait_s`. False where the job is gone."""
        return bool(await self._scripts.run("summary_note", job_id, state, error, int(wait_s * 1000)))
