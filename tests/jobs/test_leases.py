"""Leases that run out: the job goes on elsewhere, what kills its workers is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from serve_app.jobs.connection import connect
from serve_app.jobs.models import JobSpec, Phase
from serve_app.jobs.store import Store
from serve_app.jobs.terms import Leases
from serve_app.valkey import Valkey


@pytest.fixture
async def fleeting(valkey: Valkey) -> AsyncIterator[Store]:
    """A store whose leases have run out as soon as they are given."""
    redis = connect(valkey.url)
    await redis.flushall()
    store = Store(redis, Leases(lease_s=-1.0))
    yield store
    await store.close()


async def submitted(store: Store) -> str:
    job_id = uuid4().hex
    await store.submit(job_id, "owner", "t", JobSpec("base"), ttl_s=60)
    return job_id


async def test_an_expired_lease_frees_the_job_and_voids_the_token(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    old = await fleeting.claim("worker")
    assert old
    assert await fleeting.reap() == 1
    assert await fleeting.renew(old) == (False, False)
    new = await fleeting.claim("another")
    assert new
    assert new.job_id == job_id
    job = await fleeting.get(job_id)
    assert job
    assert job.attempts == 1, "a stall is no attempt"


async def test_a_job_that_stalls_three_times_is_failed_by_name(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    for number in range(3):
        assert await fleeting.claim(f"worker-{number}")
        assert await fleeting.reap() == 1
    job = await fleeting.get(job_id)
    assert job
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "internal")
    assert await fleeting.claim("worker") is None


async def test_workers_that_die_with_several_jobs_are_held_less_against_each(fleeting: Store) -> None:
    ids = [await submitted(fleeting) for _ in range(2)]
    for number in range(Leases().max_losses):
        assert await fleeting.claim(f"worker-{number}")
        assert await fleeting.claim(f"worker-{number}")
        jobs = [await fleeting.get(job_id) for job_id in ids]
        assert [job.setbacks for job in jobs if job] == [number, number]
        assert await fleeting.reap() == 2
    jobs = [await fleeting.get(job_id) for job_id in ids]
    assert [job.phase for job in jobs if job] == [Phase.FAILED, Phase.FAILED]


async def test_a_stalled_job_that_was_to_be_cancelled_is_cancelled(fleeting: Store) -> None:
    job_id = await submitted(fleeting)
    await fleeting.claim("worker")
    await fleeting.cancel(job_id)
    await fleeting.reap()
    job = await fleeting.get(job_id)
    assert job
    assert job.phase is Phase.CANCELLED


async def test_a_lease_in_force_is_not_reaped(store: Store) -> None:
    await submitted(store)
    await store.claim("worker")
    assert await store.reap() == 0
