"""A worker that is suspended past its lease and resumes after another has done its work."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.storage.artifacts import Artifacts
from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind
from serve_app.models.job import JobSpec, Phase
from serve_app.models.storage_paths import job_folder
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from tests.lib.app import ME, open_app
from tests.lib.recordings import ROOT

MANY_WINDOWS = JobSpec("fake", segment_duration=6.0)


@contextmanager
def worker(url: str, artifacts: Artifacts) -> Iterator[subprocess.Popen[bytes]]:
    """A Runner in a process of its own."""
    argv = [sys.executable, "-m", "tests.lib.worker_process", url, artifacts.uri]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGCONT)
            process.terminate()


async def test_a_worker_that_resumes_after_its_lease_writes_nothing(
    valkey: Valkey, store: Store, artifacts: Artifacts, ffmpeg: str, sample: Path
) -> None:
    redis = connect(valkey.url)
    async with open_app(store, artifacts, ffmpeg) as app:
        await app.runner.stop()
        job_id = await app.submit(sample, MANY_WINDOWS)
        with worker(valkey.url, artifacts) as suspended:
            begun = await app.until(job_id, EventKind.SEGMENT)
            suspended.send_signal(signal.SIGSTOP)
            assert not (await app.jobs.get(ME, job_id)).phase.final
            await app.runner.start()
            job = await app.ended(job_id)
            assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)
            events = await app.follow(job_id)
            assert events[: len(begun)] == begun, "what it committed stays"
            ids = [event.id for event in events if event.kind is EventKind.SEGMENT]
            assert len(ids) == len({event.data for event in events if event.kind is EventKind.SEGMENT})

            await app.runner.stop()
            record = await redis.hgetall(f"murmur:{{q}}:job:{job_id}")
            files = {key: artifacts.read(key) for key in artifacts.keys(job_folder(job_id))}
            suspended.send_signal(signal.SIGCONT)
            # Once it has done another job, it is past everything it was about to write.
            after = await app.ended(await app.submit(sample, MANY_WINDOWS))
            assert after.phase is Phase.COMPLETED
            assert await app.follow(job_id) == events
            assert await redis.hgetall(f"murmur:{{q}}:job:{job_id}") == record
            assert {key: artifacts.read(key) for key in artifacts.keys(job_folder(job_id))} == files
    await redis.aclose()
