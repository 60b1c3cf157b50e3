"""A runner in a process of its own, to be suspended: python -m tests.jobs.worker REDIS_URL STORAGE_URI. It ends with its
standard input."""

from __future__ import annotations

import asyncio
import sys

from deployments.artifacts import Artifacts
from deployments.ffmpeg import find_ffmpeg
from serve_app.jobs.connection import connect
from serve_app.jobs.runner import Runner, RunnerLimits
from serve_app.jobs.store import Store
from serve_app.jobs.sweeper import Sweeper
from serve_app.jobs.terms import Leases
from tests.house import PlainStages


async def main(redis_url: str, storage_uri: str) -> None:
    """Work until standard input ends."""
    artifacts, store = Artifacts(storage_uri), Store(connect(redis_url), Leases(lease_s=1.0))
    stages = PlainStages(artifacts, find_ffmpeg().path, engine="fake-8")
    sweeper = Sweeper(store, artifacts, period_s=0.2, stream_grace_s=3600)
    runner = Runner("suspended", store, stages, artifacts, sweeper, RunnerLimits(windows=2))
    await runner.start()
    await asyncio.to_thread(sys.stdin.read)
    await runner.stop()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
