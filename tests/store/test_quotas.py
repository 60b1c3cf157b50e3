"""Rate limit and monthly quota of a tenant, counted in a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from serve_app.errors import RequestError
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.models.event import Progress
from serve_app.models.job import ChannelCheckpoint, JobError, JobSpec, Phase
from serve_app.models.lease import Claim, Commit, CommitOutcome
from serve_app.models.principal import Principal
from serve_app.models.submission import IdempotencyRecord, RetryOutcome, SubmitOutcome
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX, SCRIPTS

ALICE, BOB, OTHER = Principal("alice", "acme"), Principal("bob", "acme"), Principal("alice", "else")


async def ended_job(store: Store, job_id: str, seconds: float, phase: Phase = Phase.COMPLETED) -> None:
    """Submit a job of acme's that ends after `seconds` of audio."""
    await store.jobs.submit(job_id, "alice", "acme", JobSpec("fake"), ttl_s=60)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.note_audio(claim, done_s=seconds)
    await store.leases.finish(claim, phase)


async def test_without_limits_nothing_is_refused(store: Store) -> None:
    limits = Quotas(store, TenantLimits())
    for _ in range(100):
        await limits.count_request(ALICE)
    await limits.check_minutes(ALICE)


async def test_the_rate_limit_is_shared_by_a_tenant_only(store: Store) -> None:
    limits = Quotas(store, TenantLimits(requests_per_minute=6))
    for principal in (ALICE, BOB) * 3:
        await limits.count_request(principal)
    with pytest.raises(RequestError) as caught:
        await limits.count_request(BOB)
    assert caught.value.status == 429
    assert 1 <= int(caught.value.headers["Retry-After"]) <= 10
    assert caught.value.headers["RateLimit-Policy"] == '"requests";q=6;w=60'
    assert caught.value.headers["RateLimit"].startswith('"requests";r=0;t=')
    await limits.count_request(OTHER)


async def test_the_token_bucket_refills_evenly(store: Store) -> None:
    limits = Quotas(store, TenantLimits(requests_per_minute=120))

    async def refused() -> bool:
        try:
            await limits.count_request(ALICE)
        except RequestError:
            return True
        return False

    async with asyncio.timeout(60):
        while not await refused():
            pass
        while await refused():  # noqa: ASYNC110 - the bucket notifies nobody
            await asyncio.sleep(0.02)


async def test_the_quota_counts_transcribed_audio_of_this_month(store: Store) -> None:
    limits = Quotas(store, TenantLimits(minutes_per_month=2))
    await ended_job(store, "a", 60.0)
    await ended_job(store, "b", 59.5, Phase.FAILED)
    await limits.check_minutes(ALICE)
    await ended_job(store, "c", 0.5)
    with pytest.raises(RequestError) as caught:
        await limits.check_minutes(BOB)
    assert (caught.value.code, caught.value.status) == ("quota_exceeded", 429)
    assert 0 < int(caught.value.headers["Retry-After"]) <= 31 * 86_400
    await limits.check_minutes(OTHER)
    assert await store.usage.audio_s("acme") == 120.0


async def test_audio_before_a_retry_counts_once(store: Store) -> None:
    await ended_job(store, "a", 30.0, Phase.FAILED)
    assert await store.jobs.retry("a") is RetryOutcome.QUEUED
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.note_audio(claim, done_s=50.0)
    await store.leases.finish(claim, Phase.COMPLETED)
    assert await store.usage.audio_s("acme") == 50.0


async def test_a_repeated_request_gets_its_job_although_the_quota_is_spent(store: Store) -> None:
    once = IdempotencyRecord("place", "fingerprint")
    made = await store.jobs.submit("j", "alice", "acme", JobSpec("fake"), ttl_s=60, quota_s=10, idempotency=once)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.note_audio(claim, done_s=11.0)
    await store.leases.finish(claim, Phase.COMPLETED)
    again = await store.jobs.submit("k", "alice", "acme", JobSpec("fake"), ttl_s=60, quota_s=10, idempotency=once)
    other = await store.jobs.submit("l", "alice", "acme", JobSpec("fake"), ttl_s=60, quota_s=10)
    assert (made.outcome, again.outcome, again.job_id, other.outcome) == (
        SubmitOutcome.NEW,
        SubmitOutcome.SAME,
        "j",
        SubmitOutcome.SPENT,
    )


async def test_the_month_is_a_calendar_month(store: Store) -> None:
    lua = (SCRIPTS / "lib.lua").read_text() + "return month(tonumber(ARGV[1]))"
    days = [(year, month, day) for year in (1999, 2000, 2024, 2026, 2100) for month in range(1, 13) for day in (1, 28)]
    for moment in (datetime(*day, tzinfo=UTC) for day in days):
        reply = await store._redis.eval(lua, 1, "x", int(moment.timestamp() * 1000))
        assert reply.decode() == f"{moment:%Y-%m}"


async def submitted(store: Store, quota_s: float, *, reserve_s: float | None = None) -> tuple[str, SubmitOutcome]:
    job_id = uuid4().hex
    spec = JobSpec("fake")
    result = await store.jobs.submit(job_id, "alice", "acme", spec, ttl_s=60, quota_s=quota_s, reserve_s=reserve_s)
    return job_id, result.outcome


async def claimed(store: Store) -> Claim:
    claim = await store.leases.claim("worker")
    assert claim
    return claim


def window(number: int) -> Commit:
    """Commit of a window of 24 s."""
    progress = Progress(24.0 * (number + 1), None, number + 1, None, None)
    state = ChannelCheckpoint((number + 1) * 24 * 16_000)
    return Commit(number, ('{"id":0}',), 1.0, None, "cpu", progress, state=state)


async def test_files_sent_one_after_another_stay_below_the_quota(store: Store) -> None:
    outcomes = [(await submitted(store, 60.0))[1] for _ in range(15)]
    assert outcomes == [SubmitOutcome.NEW] + [SubmitOutcome.SPENT] * 14, "a minute is reserved for one of unknown length"
    claim = await claimed(store)
    await store.leases.note_audio(claim, total_s=57.0, done_s=57.0)
    assert (await submitted(store, 60.0))[1] is SubmitOutcome.NEW, "three seconds are left beside the 57 of the first"
    assert (await submitted(store, 60.0))[1] is SubmitOutcome.SPENT
    await store.leases.finish(claim, Phase.COMPLETED)
    assert await store.usage.audio_s("acme") == 57.0
    claim = await claimed(store)
    assert await store.leases.commit(claim, window(0)) is CommitOutcome.EXHAUSTED
    await store.leases.finish(claim, Phase.FAILED, JobError("quota_exceeded", "No more."), partial=True)
    assert await store.usage.audio_s("acme") == 60.0
    assert (await submitted(store, 60.0))[1] is SubmitOutcome.SPENT


async def test_parallel_jobs_that_turn_out_long_use_no_more_than_the_quota(store: Store) -> None:
    for _ in range(5):
        assert (await submitted(store, 300.0))[1] is SubmitOutcome.NEW
    claims = [await claimed(store) for _ in range(5)]
    for claim in claims:
        await store.leases.note_audio(claim, declared_s=86_400.0)
    windows = 0
    while claims:
        for claim in list(claims):
            if await store.leases.commit(claim, window(windows)) is CommitOutcome.EXHAUSTED:
                await store.leases.finish(claim, Phase.FAILED, JobError("quota_exceeded", "No more."), partial=True)
                claims.remove(claim)
        windows += 1
    assert windows == 3, "each stops at the window that passes its minute"
    assert await store.usage.audio_s("acme") == 300.0
    assert not await store._redis.exists(f"{PREFIX}held", f"{PREFIX}held:acme")


async def test_audio_of_known_length_is_reserved_in_whole(store: Store) -> None:
    assert (await submitted(store, 60.0, reserve_s=61.0))[1] is SubmitOutcome.SPENT
    assert (await submitted(store, 60.0, reserve_s=40.0))[1] is SubmitOutcome.NEW
    assert (await submitted(store, 60.0, reserve_s=21.0))[1] is SubmitOutcome.SPENT
    assert (await submitted(store, 60.0, reserve_s=20.0))[1] is SubmitOutcome.NEW


async def test_a_cancelled_job_gives_its_reservation_back(store: Store) -> None:
    job_id, _ = await submitted(store, 60.0)
    await store.jobs.cancel(job_id)
    assert await store.usage.audio_s("acme") == 0.0
    assert (await submitted(store, 60.0))[1] is SubmitOutcome.NEW


async def test_a_retry_respects_the_quota_and_the_queue(store: Store) -> None:
    job_id, _ = await submitted(store, 60.0)
    claim = await claimed(store)
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    other, _ = await submitted(store, 60.0)
    assert await store.jobs.retry(job_id, quota_s=60.0) is RetryOutcome.SPENT
    assert await store.jobs.retry(job_id, queue_limit=1) is RetryOutcome.FULL
    await store.jobs.cancel(other)
    assert await store.jobs.retry(job_id, queue_limit=1, quota_s=60.0) is RetryOutcome.QUEUED
    assert (await submitted(store, 60.0))[1] is SubmitOutcome.SPENT


async def test_months_long_gone_are_forgotten(store: Store) -> None:
    months: Mapping[Any, Any] = {f"{year}-{month:02}": 1 for year in (2001, 2002) for month in range(1, 13)}
    await store._redis.hset(f"{PREFIX}used:acme", mapping=months)
    await ended_job(store, "a", 5.0)
    assert await store._redis.hlen(f"{PREFIX}used:acme") == 13
    assert await store.usage.audio_s("acme") == 5.0


async def test_a_tenant_keeps_as_many_jobs_as_it_may(store: Store) -> None:
    async def submit(tenant: str = "acme") -> tuple[str, SubmitOutcome]:
        job_id = uuid4().hex
        result = await store.jobs.submit(job_id, "alice", tenant, JobSpec("fake"), ttl_s=60, kept_limit=2)
        return job_id, result.outcome

    first, _ = await submit()
    second, _ = await submit()
    await store.jobs.cancel(first)
    assert (await submit())[1] is SubmitOutcome.KEPT, "ended ones included"
    assert (await submit("else"))[1] is SubmitOutcome.NEW
    assert await store.jobs.purge_results(first, keep_s=60)
    assert (await submit())[1] is SubmitOutcome.NEW, "a record without results counts no more"
    assert await store.jobs.delete(first)
    assert (await submit())[1] is SubmitOutcome.KEPT, "and is not counted off twice"
    await store.jobs.cancel(second)
    assert await store.jobs.delete(second)
    assert (await submit())[1] is SubmitOutcome.NEW
