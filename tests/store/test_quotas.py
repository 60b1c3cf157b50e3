"""Rate limit and monthly quota of a tenant, counted in a real store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from serve_app.errors import RequestError
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.models.job import JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.models.submission import IdempotencyRecord, SubmitOutcome
from serve_app.store.redis_store import Store
from serve_app.store.scripts import SCRIPTS

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
    assert await store.jobs.retry("a")
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
