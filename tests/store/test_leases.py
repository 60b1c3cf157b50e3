"""Leases that run out: the job goes on elsewhere, what kills its workers is given up."""

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
async def fleeting(valkey: Valkey) -> AsyncIterator[Store]:
    """A store whose leases have run out as soon as they are given."""
    redis = connect(valkey.url)
    await redis.flushall()
    store = Store(redis, LeaseRules(lease_s=-1.0))
    yield store
    await store.close()


async def submitted(store: Store) -> str:
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "owner", "t", JobSpec("base"), ttl_s=60)
    return job_id


async def test_an_expired_lease_frees_the_job_and_voids_the_token(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    old = await fleeting.leases.claim("worker")
    assert old
    assert await fleeting.leases.reap() == 1
    assert await fleeting.leases.renew(old) is LeaseState.LOST
    new = await fleeting.leases.claim("another")
    assert new
    assert new.job_id == job_id
    job = await fleeting.jobs.get(job_id)
    assert job
    assert job.attempts == 1, "a stall is no attempt"


async def test_a_job_that_stalls_three_times_is_failed_by_name(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    for number in range(3):
        assert await fleeting.leases.claim(f"worker-{number}")
        assert await fleeting.leases.reap() == 1
    job = await fleeting.jobs.get(job_id)
    assert job
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "internal")
    assert await fleeting.leases.claim("worker") is None


async def test_workers_that_die_with_several_jobs_are_held_less_against_each(fleeting: Store) -> None:
    ids = [await submitted(fleeting) for _ in range(2)]
    for number in range(LeaseRules().max_losses):
        assert await fleeting.leases.claim(f"worker-{number}")
        assert await fleeting.leases.claim(f"worker-{number}")
        jobs = [await fleeting.jobs.get(job_id) for job_id in ids]
        assert [job.setbacks for job in jobs if job] == [number, number]
        assert await fleeting.leases.reap() == 2
    jobs = [await fleeting.jobs.get(job_id) for job_id in ids]
    assert [job.phase for job in jobs if job] == [Phase.FAILED, Phase.FAILED]


async def test_a_stalled_job_that_was_to_be_cancelled_is_cancelled(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    await fleeting.leases.claim("worker")
    await fleeting.jobs.cancel(job_id)
    await fleeting.leases.reap()
    job = await fleeting.jobs.get(job_id)
    assert job
    assert job.phase is Phase.CANCELLED


async def test_a_lease_in_force_is_not_reaped(store: Store) -> None:
    await submitted(store)
    await store.leases.claim("worker")
    assert await store.leases.reap() == 0
