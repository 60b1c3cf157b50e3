"""Expired leases: the job continues elsewhere, or fails if it kills its workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from serve_app.local.valkey import Valkey
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import Claim, LeaseRules, LeaseState
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX


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


async def test_a_claim_that_is_sent_again_claims_nothing_else(store: Store) -> None:
    """redis-py does so when it loses the reply."""
    for _ in range(2):
        await submitted(store)
    arguments = "worker", 30_000, 0, "request", 7, 1, 0
    first = await store.leases._scripts.run("claim", *arguments)
    assert await store.leases._scripts.run("claim", *arguments) == first
    assert (await store.stats.read()).running == 1
    job = await store.jobs.get(first[0].decode())
    assert job
    assert job.attempts == 1
    assert await store.leases.give_back(Claim(job.id, int(first[1])))
    again = await store.leases._scripts.run("claim", *arguments)
    assert again[1] != first[1], "a claim that was given back is not returned"


async def test_claims_differ_after_a_failover_that_lost_the_first(store: Store) -> None:
    job_id = await submitted(store)
    job, queue = f"{PREFIX}job:{job_id}", f"{PREFIX}wait:t"
    before = [await store._redis.dump(name) or b"" for name in (job, queue)]
    first = await store.leases.claim("one")
    # A replica that was promoted without the last writes.
    await store._redis.delete(f"{PREFIX}token", f"{PREFIX}leases", f"{PREFIX}running")
    await store._redis.restore(job, 0, before[0], replace=True)
    await store._redis.restore(queue, 0, before[1])
    await store._redis.zadd(f"{PREFIX}tenants", {"t": 0})
    second = await store.leases.claim("two")
    assert first
    assert second
    assert first.job_id == second.job_id
    assert first.token != second.token
    assert 0 < second.token < 2**53
    assert await store.leases.renew(first) is LeaseState.LOST


async def restarted(store: Store, ago_s: float) -> None:
    """Let the last search for expired leases be that long ago."""
    await store._redis.hincrby(f"{PREFIX}reaped", "at", -int(ago_s * 1000))


async def expire(store: Store, claim: Claim) -> None:
    await store._redis.zadd(f"{PREFIX}leases", {claim.job_id: 0})


async def test_after_a_gap_all_leases_get_one_lease_more(store: Store) -> None:
    await submitted(store)
    claim = await store.leases.claim("worker")
    assert claim
    assert await store.leases.reap() == 0
    await expire(store, claim)
    await restarted(store, store.leases.lease_s)
    assert await store.leases.reap() == 0, "nobody could renew while everything stood still"
    assert await store.leases.renew(claim) is LeaseState.HELD
    await expire(store, claim)
    assert await store.leases.reap() == 1


async def test_after_a_restart_of_redis_all_leases_get_one_lease_more(store: Store) -> None:
    await submitted(store)
    claim = await store.leases.claim("worker")
    assert claim
    assert await store.leases.reap() == 0
    await expire(store, claim)
    await store._redis.hset(f"{PREFIX}reaped", "run", "of the server before")
    assert await store.leases.reap() == 0
    assert await store.leases.renew(claim) is LeaseState.HELD


async def test_slow_sweeps_do_not_keep_dead_workers_jobs(store: Store) -> None:
    await submitted(store)
    claim = await store.leases.claim("worker")
    assert claim
    for _ in range(2):
        assert await store.leases.reap() == 0
        await expire(store, claim)
        await restarted(store, 10 * store.leases.lease_s)
    assert await store.leases.reap() == 1


async def test_tags_behind_the_clock_are_forgotten(store: Store) -> None:
    for _ in range(61):
        await store.jobs.submit(uuid4().hex, "owner", "busy", JobSpec("base"), ttl_s=60)
    for number in range(30):
        await store.jobs.submit(uuid4().hex, "owner", f"tenant-{number:02}", JobSpec("base"), ttl_s=60)
        for _ in range(3):
            claim = await store.leases.claim("worker")
            assert claim
            await store.leases.finish(claim, Phase.COMPLETED)
    for _ in range(50):
        await store.leases.reap()
    assert await store._redis.hlen(f"{PREFIX}finish") <= 3
    assert not await store._redis.exists(f"{PREFIX}running", f"{PREFIX}worker_jobs")
    while claim := await store.leases.claim("worker"):
        await store.leases.finish(claim, Phase.COMPLETED)
    await store.leases.reap()
    assert not await store._redis.exists(f"{PREFIX}finish", f"{PREFIX}tenants")
