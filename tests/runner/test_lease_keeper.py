"""Leases of a Runner whose event loop stands still."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import Claim, LeaseRules, LeaseState
from serve_app.runner.lease_keeper import LeaseKeeper
from serve_app.store.redis_store import Store
from tests.lib.app import App


@pytest.fixture
def leases() -> LeaseRules:
    return LeaseRules(lease_s=1.0)


@contextmanager
def sweeping(store: Store) -> Iterator[list[int]]:
    """Numbers of jobs that a sweeper in another thread takes back."""
    reaped: list[int] = []
    stopping = threading.Event()

    async def sweep() -> None:
        other = store.reopen()
        while not stopping.is_set():
            reaped.append(await other.leases.reap())
            await asyncio.sleep(0.05)
        await other.close()

    thread = threading.Thread(target=lambda: asyncio.run(sweep()))
    thread.start()
    try:
        yield reaped
    finally:
        stopping.set()
        thread.join()


async def test_a_blocked_event_loop_loses_no_lease(app: App, store: Store, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(1)
    job_id = await app.submit(sample, JobSpec("fake", segment_duration=6.0, max_attempts=1))
    await app.until_phase(job_id, Phase.TRANSCRIBING)
    with sweeping(store) as reaped:
        time.sleep(3 * store.leases.lease_s)  # noqa: ASYNC251 - blocks the loop
        assert sum(reaped) == 0
    assert len(reaped) > 10
    for _ in range(100):
        app.stages.gate.release()
    job = await app.ended(job_id)
    assert (job.phase, job.attempts) == (Phase.COMPLETED, 1)


async def test_leases_of_a_loop_that_never_comes_back_are_left_to_expire(app: App, store: Store) -> None:
    await app.runner.stop()
    await app.submit_without_upload(JobSpec("fake"))
    claim = await store.leases.claim("stuck")
    assert claim
    keeper = LeaseKeeper(store, lambda *_: None, stuck_s=0.5)
    keeper.start()
    keeper.hold(claim)
    with sweeping(store) as reaped:
        time.sleep(4 * store.leases.lease_s)  # noqa: ASYNC251 - blocks the loop
    await keeper.stop()
    assert sum(reaped) == 1


async def test_a_keeper_reports_cancels_and_lost_leases(app: App, store: Store) -> None:
    await app.runner.stop()
    reports = asyncio.Queue[tuple[Claim, LeaseState]]()
    keeper = LeaseKeeper(store, lambda *report: reports.put_nowait(report))
    keeper.start()
    job_id = await app.submit_without_upload(JobSpec("fake"))
    claim = await store.leases.claim("runner")
    assert claim
    keeper.hold(claim)
    await store.jobs.cancel(job_id)
    async with asyncio.timeout(10):
        assert await reports.get() == (claim, LeaseState.CANCELLING)
        await store.leases.finish(claim, Phase.CANCELLED)
        while await reports.get() != (claim, LeaseState.LOST):
            pass
    keeper.release(claim)
    await keeper.stop()
    assert not keeper.healthy
