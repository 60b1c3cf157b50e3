"""Expiry, streams, audio and files of ended jobs: scripts that look again, and ids without a record."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from serve_app.local.valkey import Valkey
from serve_app.models.event import EventKind, Progress
from serve_app.models.file import File
from serve_app.models.job import JobError, JobSpec, Phase
from serve_app.models.lease import Commit
from serve_app.models.listing import JobQuery
from serve_app.models.storage_paths import file_folder, file_key, job_folder, pcm_prefix, source_key
from serve_app.models.submission import IdempotencyRecord, SubmitOutcome
from serve_app.store.redis_store import Store
from serve_app.store.scripts import key
from serve_app.store.upkeep_store import SWEEP_LIMIT, DueList

SPEC = JobSpec("base")
RECORD = replace(SPEC, record_ttl_s=2_592_000)
FAILURE = JobError("internal", "It failed.")
GHOSTS = 150  # more than one script deals with


@pytest.fixture
async def raw(valkey: Valkey, store: Store) -> AsyncIterator[Any]:
    """Client for what no script does."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


async def ended(store: Store, spec: JobSpec = SPEC, phase: Phase = Phase.COMPLETED, *, ttl_s: float = 0.0) -> str:
    """Id of a job with one segment that has ended."""
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "me", "t", spec, ttl_s=ttl_s)
    claim = await store.leases.claim("worker")
    assert claim
    assert claim.job_id == job_id
    await store.leases.commit(claim, Commit(0, ('{"id":0}',), 1.0, None, "cpu", Progress(1.0, None, 1, None, None)))
    await store.leases.finish(claim, phase, None if phase is Phase.COMPLETED else FAILURE)
    return job_id


async def test_a_retried_job_keeps_its_stream(store: Store, raw: Any) -> None:
    job_id = await ended(store, phase=Phase.FAILED)
    await store.jobs.retry(job_id)
    await raw.zadd(key("ended"), {job_id: 1})  # as it was before the retry
    await store.upkeep.drop_old_streams(0.0)
    kinds = [event.kind for event in await store.events.read(job_id)]
    assert EventKind.SEGMENT in kinds
    assert await raw.zscore(key("ended"), job_id) is None


@pytest.mark.parametrize("spec", [SPEC, RECORD], ids=["with its record", "without its record"])
async def test_a_job_that_was_retried_after_its_end_does_not_expire(store: Store, raw: Any, spec: JobSpec) -> None:
    job_id = await ended(store, spec, Phase.FAILED)
    await store.jobs.retry(job_id)
    await raw.zadd(key("expiry"), {job_id: 1})  # as it was before the retry
    await store.upkeep.expire()
    job = await store.jobs.get(job_id)
    assert job
    assert (job.phase, job.purged_at) == (Phase.QUEUED, None)
    assert await raw.zscore(key("expiry"), job_id) is None
    assert await store.upkeep.removals() == []


async def test_results_expire_before_their_record_where_it_outlives_them(store: Store) -> None:
    job_id = await ended(store, RECORD)
    assert await store.upkeep.expire() == 1
    job = await store.jobs.get(job_id)
    assert job
    assert job.purged_at is not None
    assert await store.upkeep.removals() == [job_folder(job_id)]
    assert await store.upkeep.expire() == 0, "the record stays"


async def test_only_a_record_that_cannot_be_read_is_deleted_before_its_time(store: Store, raw: Any) -> None:
    broken, whole = await ended(store, RECORD), await ended(store, RECORD)
    await raw.hset(key(f"job:{broken}"), "spec", "{")
    await store.upkeep.expire()
    assert await raw.exists(key(f"job:{broken}")) == 0
    assert await store.jobs.get(whole)
    assert sorted(await store.upkeep.removals()) == sorted([job_folder(broken), job_folder(whole)])


async def test_ids_without_a_record_block_no_list(store: Store, raw: Any) -> None:
    ghosts = {f"ghost{n}": float(n) for n in range(GHOSTS)}
    job_id = await ended(store)
    lists = ("expiry", "ended", "audio")
    for name in lists:
        await raw.zadd(key(name), ghosts)
    await raw.xadd(key("events:ghost1"), {"kind": "segment", "data": "{}"})
    for step in (store.upkeep.expire, lambda: store.upkeep.drop_old_streams(0.0), lambda: store.upkeep.drop_audio(0.001)):
        while await step() == SWEEP_LIMIT:
            pass
    assert [await raw.zcard(key(name)) for name in lists] == [0, 0, 0]
    assert await store.jobs.get(job_id) is None
    assert await raw.keys(key("*ghost*")) == []


async def test_ids_without_a_record_leave_the_listings(store: Store, raw: Any) -> None:
    jobs = [await ended(store, ttl_s=60) for _ in range(3)]
    await raw.delete(key(f"job:{jobs[1]}"))
    await store.jobs.page("me", "t", limit=10)
    await store.jobs.query("me", "t", "native", JobQuery())
    listed = await store.jobs.query("me", "t", "native", JobQuery())
    assert ([job.id for job in listed.jobs], listed.total) == ([jobs[2], jobs[0]], 2)
    assert await raw.zrange(key("index:t/me"), 0, -1) == [jobs[0], jobs[2]]


async def test_a_failed_removal_is_due_again_later_and_later(store: Store, raw: Any) -> None:
    job_id = await ended(store)
    await store.upkeep.expire()
    folder = job_folder(job_id)
    delays = []
    for _ in range(3):
        delays.append(await store.upkeep.postpone(DueList.REMOVALS, folder))
        assert await store.upkeep.removals() == []
        assert await store.upkeep.postpone(DueList.REMOVALS, folder) == 0.0, "it is not due"
        await raw.zadd(key("removals"), {folder: 1})
    assert delays == [60.0, 120.0, 240.0]
    await store.upkeep.removed(folder)
    assert await store.upkeep.removals() == []
    assert await raw.hlen(key("setbacks")) == 0


async def test_the_files_of_a_job_deleted_by_its_owner_are_left_to_the_sweeper_if_he_dies(store: Store, raw: Any) -> None:
    job_id = await ended(store, ttl_s=60)
    await store.jobs.delete(job_id)
    assert await store.upkeep.removals() == [], "the caller deletes them now"
    assert await raw.zscore(key("removals"), job_folder(job_id)) is not None


async def test_one_sweeper_leads_until_it_steps_down_or_dies(store: Store) -> None:
    assert await store.upkeep.lead("sweeper", "a", 60.0)
    assert await store.upkeep.lead("sweeper", "a", 60.0), "it renews"
    assert not await store.upkeep.lead("sweeper", "b", 60.0)
    await store.upkeep.step_down("sweeper", "b")
    assert not await store.upkeep.lead("sweeper", "b", 60.0)
    await store.upkeep.step_down("sweeper", "a")
    assert await store.upkeep.lead("sweeper", "b", 0.05)
    async with asyncio.timeout(30):
        while not await store.upkeep.lead("sweeper", "c", 60.0):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_audio_goes_before_the_results_where_the_operator_says_so(store: Store) -> None:
    job_id = await ended(store, ttl_s=3600)
    assert await store.upkeep.drop_audio(3600.0) == 0
    await asyncio.sleep(0.002)
    assert await store.upkeep.drop_audio(0.001) == 1
    assert sorted(await store.upkeep.removals()) == sorted([pcm_prefix(job_id), source_key(job_id)])
    job = await store.jobs.get(job_id)
    assert job
    assert job.audio_gone


async def test_audio_stays_as_long_as_the_results_by_default(store: Store, raw: Any) -> None:
    await ended(store, ttl_s=3600)
    await store.upkeep.drop_audio(0.0)
    assert await store.upkeep.removals() == []
    assert await raw.zcard(key("audio")) == 0, "nothing has to be remembered"


async def test_a_job_that_runs_again_keeps_its_audio(store: Store, raw: Any) -> None:
    job_id = await ended(store, replace(SPEC, url="https://there/"), Phase.FAILED, ttl_s=3600)
    await raw.zadd(key("audio"), {job_id: 1})
    await store.upkeep.drop_audio(0.001)
    await store.jobs.retry(job_id)
    assert await store.upkeep.removals() == []
    job = await store.jobs.get(job_id)
    assert job
    assert not job.audio_gone


async def test_a_shared_source_goes_when_its_last_job_needs_it_no_more(store: Store, raw: Any) -> None:
    file = File("f1", "me", "t", "talk")
    spec = replace(SPEC, file=file.id)
    first, second = uuid4().hex, uuid4().hex
    await store.jobs.submit(first, "me", "t", spec, ttl_s=3600, file=file)
    await store.jobs.submit(second, "me", "t", spec, ttl_s=3600)
    for _ in range(2):
        claim = await store.leases.claim("worker")
        assert claim
        assert file_key(file.id) not in await store.upkeep.removals()
        await store.leases.finish(claim, Phase.COMPLETED)
        await raw.zadd(key("audio"), {claim.job_id: 1})
        await asyncio.sleep(0.002)
        await store.upkeep.drop_audio(0.001)
    assert file_key(file.id) in await store.upkeep.removals()
    assert await store.upkeep.files_needed([file.id]) == [True], "a listening copy is a result"
    assert (await store.jobs.submit(uuid4().hex, "me", "t", spec, ttl_s=60)).outcome is SubmitOutcome.GONE
    for job_id in (first, second):
        await store.jobs.delete(job_id)
    assert await raw.zscore(key("removals"), file_folder(file.id)) is not None
    assert await store.upkeep.files_needed([file.id]) == [False]


async def test_the_key_of_a_job_that_is_being_deleted_is_free(store: Store) -> None:
    first, second = uuid4().hex, uuid4().hex
    once = IdempotencyRecord("digest", "same")
    await store.jobs.submit(first, "me", "t", SPEC, ttl_s=60, idempotency=once)
    assert await store.leases.claim("worker")
    assert await store.jobs.delete_when_ended(first)
    assert (await store.jobs.submit(second, "me", "t", SPEC, ttl_s=60, idempotency=once)).job_id == second


async def test_folders_are_named_as_in_the_storage(store: Store) -> None:
    # The scripts build them too.
    assert job_folder("x") == "jobs/x"
    assert file_folder("x") == "files/x"
    assert (source_key("x"), pcm_prefix("x"), file_key("x")) == ("jobs/x/source", "jobs/x/pcm", "files/x/source")
