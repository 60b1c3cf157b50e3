"""Jobs whose hash is gone, evicted or deleted by hand: every script skips them, and nothing is half made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from serve_app.local.valkey import Valkey
from serve_app.models.event import Progress
from serve_app.models.job import ChannelCheckpoint, JobError, JobSpec, JobWarning, Phase, Priority
from serve_app.models.lease import Claim, Commit, CommitOutcome, LeaseRules, LeaseState
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX

COMMIT = Commit(0, ('{"id":0}',), 1.0, None, "cpu", Progress(1.0, None, 1, None, None), state=ChannelCheckpoint(16_000))


@pytest.fixture
async def expiring(valkey: Valkey) -> AsyncIterator[Store]:
    """A store whose leases are expired from the start."""
    redis = connect(valkey.url)
    await redis.flushall()
    store = Store(redis, LeaseRules(lease_s=-1.0))
    yield store
    await store.close()


async def submitted(store: Store, priority: Priority = Priority.INTERACTIVE) -> str:
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "owner", "t", JobSpec("base", priority=priority), ttl_s=60, quota_s=1000)
    return job_id


async def lose(store: Store, job_id: str) -> None:
    await store._redis.delete(f"{PREFIX}job:{job_id}")


async def assert_gone(store: Store, job_id: str) -> None:
    """No script raises or makes a part of the job anew."""
    claim = Claim(job_id, 1)
    assert await store.jobs.cancel(job_id) is None
    assert await store.jobs.retry(job_id) is None
    assert await store.jobs.delete(job_id) is None
    assert await store.jobs.mark_deleted(job_id) is None
    assert await store.jobs.delete_when_ended(job_id) is None
    assert await store.leases.renew(claim) is LeaseState.LOST
    assert await store.leases.commit(claim, COMMIT) is CommitOutcome.LOST
    assert not await store.leases.warn(claim, JobWarning("damaged", "It is damaged."))
    assert not await store.leases.enter(claim, Phase.TRANSCODING)
    assert not await store.leases.note_audio(claim, total_s=1.0)
    assert not await store.leases.finish(claim, Phase.COMPLETED)
    assert not await store.leases.give_back(claim)
    assert not await store.jobs.replace_spec(job_id, JobSpec("base"))
    assert await store.jobs.get(job_id) is None
    assert not await store.events.exists(job_id)


async def places(store: Store) -> set[str]:
    """Names of the queues and counts that have entries."""
    names = ("leases", "delayed", "wait:t", "tenants", "running", "worker_jobs", "held", "held:t", "positions:t")
    return {name for name in names if await store._redis.exists(PREFIX + name)}


async def test_a_queued_ghost_is_skipped_by_a_claim(store: Store) -> None:
    ghosts = [await submitted(store) for _ in range(3)]
    job_id = await submitted(store, Priority.BULK)
    for ghost in ghosts:
        await lose(store, ghost)
    claim = await store.leases.claim("worker")
    assert claim
    assert claim.job_id == job_id
    for ghost in ghosts:
        await assert_gone(store, ghost)
    await store.leases.finish(claim, Phase.COMPLETED)
    assert await places(store) == set()
    assert (await store._redis.hget(f"{PREFIX}kept", "t")) == b"1"


async def test_a_queue_of_ghosts_only_is_closed(store: Store) -> None:
    for _ in range(3):
        await lose(store, await submitted(store))
    assert await store.leases.claim("worker") is None
    assert await places(store) == set()


async def test_a_ghost_in_front_is_told_no_position(store: Store) -> None:
    ids = [await submitted(store) for _ in range(4)]
    await lose(store, ids[2])
    await store._redis.delete(f"{PREFIX}events:{ids[2]}")
    assert await store.leases.claim("worker")
    assert not await store.events.exists(ids[2])


async def test_a_delayed_ghost_is_skipped(store: Store) -> None:
    job_id = await submitted(store)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.give_back(claim, delay_s=0.001)
    await lose(store, job_id)
    await store._redis.zadd(f"{PREFIX}delayed", {job_id: 0})
    assert await store.leases.claim("worker") is None
    assert (await places(store)) <= {"held", "held:t"}
    await assert_gone(store, job_id)


async def test_a_running_ghost_frees_its_place_and_stops_no_recovery(expiring: Store) -> None:
    ids = [await submitted(expiring) for _ in range(3)]
    for _ in ids:
        assert await expiring.leases.claim("worker")
    await lose(expiring, ids[0])
    assert await expiring.leases.reap() == 3
    await assert_gone(expiring, ids[0])
    jobs = await expiring.jobs.get_many(ids)
    assert [job and job.phase for job in jobs] == [None, Phase.QUEUED, Phase.QUEUED]
    assert "running" not in await places(expiring)
    assert [await expiring.leases.claim("worker") is not None for _ in range(3)] == [True, True, False]
    assert await expiring._redis.hgetall(f"{PREFIX}running") == {b"t": b"2"}


async def test_an_ended_ghost_is_found_by_no_script(store: Store) -> None:
    job_id = await submitted(store)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    await lose(store, job_id)
    await store._redis.delete(f"{PREFIX}events:{job_id}")
    await assert_gone(store, job_id)
