"""Expired leases: the job continues elsewhere, or fails if it kills its workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import LeaseRules, LeaseState
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store


@pytest.fixture
async def expiring(valkey: Valkey) -> AsyncIterator[Store]:
    """A store whose leases are expired from the start."""
    redis = connect(valkey.url)
    await redis.flushall()
    store = Store(redis, LeaseRules(lease_s=-1.0))
    yield store
    await store.close()


async def submitted(store: Store) -> str:
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "owner", "t", JobSpec("base"), ttl_s=60)
    return job_id


async def test_an_expired_lease_frees_the_job_and_voids_the_token(expiring: Store) -> None:
    job_id = await submitted(expiring)
    old = await expiring.leases.claim("worker")
    assert old
    assert await expiring.leases.reap() == 1
    assert await expiring.leases.renew(old) is LeaseState.LOST
    new = await expiring.leases.claim("another")
    assert new
    assert new.job_id == job_id
    job = await expiring.jobs.get(job_id)
    assert job
    assert job.attempts == 1, "a stall is no attempt"


async def test_a_job_that_stalls_three_times_is_failed(expiring: Store) -> None:
    job_id = await submitted(expiring)
    for number in range(3):
        assert await expiring.leases.claim(f"worker-{number}")
        assert await expiring.leases.reap() == 1
    job = await expiring.jobs.get(job_id)
    assert job
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "internal")
    assert await expiring.leases.claim("worker") is None


async def test_a_worker_lost_with_several_jobs_charges_each_a_loss_only(expiring: Store) -> None:
    ids = [await submitted(expiring) for _ in range(2)]
    for number in range(LeaseRules().max_losses):
        assert await expiring.leases.claim(f"worker-{number}")
        assert await expiring.leases.claim(f"worker-{number}")
        jobs = [await expiring.jobs.get(job_id) for job_id in ids]
        assert [job.setbacks for job in jobs if job] == [number, number]
        assert await expiring.leases.reap() == 2
    jobs = [await expiring.jobs.get(job_id) for job_id in ids]
    assert [job.phase for job in jobs if job] == [Phase.FAILED, Phase.FAILED]


async def test_a_stalled_job_whose_cancel_was_requested_is_cancelled(expiring: Store) -> None:
    job_id = await submitted(expiring)
    await expiring.leases.claim("worker")
    await expiring.jobs.cancel(job_id)
    await expiring.leases.reap()
    job = await expiring.jobs.get(job_id)
    assert job
    assert job.phase is Phase.CANCELLED


async def test_a_valid_lease_is_not_reaped(store: Store) -> None:
    await submitted(store)
    await store.leases.claim("worker")
    assert await store.leases.reap() == 0
