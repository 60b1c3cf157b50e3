"""Runner in its own process, which ends when its standard input is closed.

python -m tests.lib.worker_process REDIS_URL STORAGE_URI
"""

from __future__ import annotations

import asyncio
import sys

from deployments.storage.artifacts import Artifacts
from deployments.transcoding.ffmpeg import find_ffmpeg
from serve_app.models.lease import LeaseRules
from serve_app.runner.limits import RunnerLimits
from serve_app.runner.runner import Runner
from serve_app.runner.sweeper import Sweeper
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.app import PlainStages


async def main(redis_url: str, storage_uri: str) -> None:
    """Run until standard input is closed."""
    artifacts, store = Artifacts(storage_uri), Store(connect(redis_url), LeaseRules(lease_s=1.0))
    stages = PlainStages(artifacts, find_ffmpeg().path, engine="fake-8")
    sweeper = Sweeper(store, artifacts, period_s=0.2, stream_grace_s=3600)
    runner = Runner("suspended", store, stages, artifacts, sweeper, RunnerLimits(windows=2))
    await runner.start()
    await asyncio.to_thread(sys.stdin.read)
    await runner.stop()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
