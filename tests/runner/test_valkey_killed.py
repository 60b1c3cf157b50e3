"""A Valkey that is killed under running jobs and comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from pathlib import Path

from deployments.storage.artifacts import Artifacts
from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import LeaseRules
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.app import ME, open_app

AWAY_S = 8.0  # longer than redis-py's own retries
ONCE = JobSpec("fake", segment_duration=6.0, max_attempts=1)


async def test_jobs_with_one_attempt_outlive_a_redis_that_is_away_for_long(
    tmp_path: Path, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:
        valkey = Valkey(tmp_path / "valkey", Path(run_dir))
        valkey.start()
        store = Store(connect(valkey.url), LeaseRules(lease_s=30.0))
        try:
            async with open_app(store, artifacts, ffmpeg) as app:
                app.stages.gate = asyncio.Semaphore(9)  # a window of each job at least: eight are in flight of each
                jobs = [await app.submit(sample, ONCE) for _ in range(2)]
                for job_id in jobs:
                    await app.until(job_id, EventKind.SEGMENT)
                assert valkey.pid
                os.kill(valkey.pid, signal.SIGKILL)
                valkey.stop()
                for _ in range(100):
                    app.stages.gate.release()
                await asyncio.sleep(AWAY_S)
                await asyncio.to_thread(valkey.start)
                for job_id in jobs:
                    job = await app.ended(job_id)
                    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
                ended = [await app.jobs.get(ME, job_id) for job_id in jobs]
                assert len(app.stages.decoded) == sum(job.checkpoint.next_window for job in ended)
        finally:
            await store.close()
            valkey.stop()
