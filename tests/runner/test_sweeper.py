"""Orphaned folders, and what writers that died have left."""

from __future__ import annotations

from pathlib import Path

from deployments.storage.artifacts import Artifacts
from serve_app.models.storage_paths import job_folder
from serve_app.runner.sweeper import Sweeper
from serve_app.store.redis_store import Store
from tests.lib.app import App


async def test_only_folders_without_a_job_are_removed(app: App, artifacts: Artifacts, store: Store, sample: Path) -> None:
    job_id = await app.submit(sample)
    await app.ended(job_id)
    artifacts.put("jobs/gone/source", b"x")
    artifacts.put("parts/dead", b"half")
    sweeper = Sweeper(store, artifacts, period_s=3600, stream_grace_s=3600)
    assert await sweeper.sweep_orphans() == 0, "it may be an upload under way"
    kept = artifacts.keys(job_folder(job_id))
    assert artifacts.keys("parts") == ["parts/dead"]
    assert await sweeper.sweep_orphans(min_age_s=0) == 1
    assert artifacts.keys("parts") == []
    assert artifacts.folders("jobs") == [job_folder(job_id)]
    assert artifacts.keys(job_folder(job_id)) == kept
