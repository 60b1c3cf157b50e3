"""Deliveries of webhooks in Redis: turns of tenants, and logs that end with what they name."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from serve_app.local.valkey import Valkey
from serve_app.models.delivery import Attempt, DeliveryState, Due
from serve_app.models.job import JobError, JobSpec, Phase
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.scripts import key
from serve_app.store.webhook_outbox import LOG_TTL_S, Outbox

URL = "https://there/"
SPEC = JobSpec("base", webhook=URL)
FAILURE = JobError("internal", "It failed.")


@pytest.fixture
async def outbox(valkey: Valkey, store: Store) -> AsyncIterator[Outbox]:
    redis = connect(valkey.url)
    yield Outbox(redis)
    await redis.aclose()


@pytest.fixture
async def raw(valkey: Valkey, store: Store) -> AsyncIterator[Any]:
    """Client for what no script does."""
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


async def ended(store: Store, tenant: str = "t", *, phase: Phase = Phase.COMPLETED, ttl_s: float = 60.0) -> str:
    """Id of an ended job with a webhook."""
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "me", tenant, SPEC, ttl_s=ttl_s)
    claim = await store.leases.claim("worker")
    assert claim
    await store.leases.finish(claim, phase, None if phase is Phase.COMPLETED else FAILURE)
    return job_id


async def note(outbox: Outbox, due: Due, state: DeliveryState, next_s: float = 60.0) -> None:
    await outbox.note(due, "me", URL, Attempt(time.time(), 204, None), state, next_s)


async def test_a_tenant_with_many_deliveries_keeps_no_other_waiting(store: Store, outbox: Outbox, raw: Any) -> None:
    now = int(time.time() * 1000)
    await raw.zadd(key("webhooks:big"), {f"job{n}:1-0": now - 10_000 for n in range(10_000)})
    await raw.zadd(key("webhooks"), {"big": now - 10_000})
    job_id = await ended(store, "small")
    taken = await outbox.take(64, 60.0, most=8)
    assert Counter(due.tenant for due in taken) == {"big": 8, "small": 1}
    assert job_id in [due.job_id for due in taken]


async def test_a_tenant_has_no_more_than_its_places(store: Store, outbox: Outbox) -> None:
    for _ in range(5):
        await ended(store, "a")
    await ended(store, "b")
    taken = await outbox.take(10, 60.0, most=3, in_flight={"a": 2})
    assert Counter(due.tenant for due in taken) == {"a": 1, "b": 1}
    assert await outbox.take(10, 60.0, most=3, in_flight={"a": 3, "b": 1}) == []
    assert len(await outbox.take(10, 60.0, most=3, in_flight={"a": 1})) == 2


async def test_tenants_take_turns_where_there_is_room_for_few(store: Store, outbox: Outbox) -> None:
    tenants = [f"t{n}" for n in range(6)]
    for tenant in tenants:
        for _ in range(4):
            await ended(store, tenant)
    served: list[str] = []
    while taken := await outbox.take(3, 60.0, most=2):
        served += [due.tenant for due in taken]
    assert Counter(served) == dict.fromkeys(tenants, 4)
    assert set(served[:6]) == set(tenants), "each has one before any has two"


async def test_a_delivery_that_is_held_is_taken_again_when_the_hold_ends(store: Store, outbox: Outbox) -> None:
    await ended(store)
    (first,) = await outbox.take(10, 0.0)
    assert await outbox.take(10, 60.0) == [first]
    assert await outbox.take(10, 60.0) == []
    assert (await store.stats.read()).webhooks == 1
    await note(outbox, first, DeliveryState.DELIVERED)
    assert (await store.stats.read()).webhooks == 0


async def test_a_retry_leaves_no_pending_delivery(store: Store, outbox: Outbox, raw: Any) -> None:
    job_id = await ended(store, phase=Phase.FAILED)
    (due,) = await outbox.take(10, 60.0)
    await note(outbox, due, DeliveryState.PENDING)
    assert await store.jobs.retry(job_id)
    assert (await outbox.page("me", "t", limit=10))[0] == []
    assert await raw.zcard(key("deliveries:t/me")) == 0
    await note(outbox, due, DeliveryState.PENDING)  # of an attempt that was under way
    assert await raw.keys(key(f"*{due.id}*")) == []
    assert await outbox.take(10, 60.0) == []


async def test_a_deleted_job_leaves_no_delivery_of_any_of_its_ends(store: Store, outbox: Outbox, raw: Any) -> None:
    job_id = await ended(store, phase=Phase.FAILED)
    for again in (True, False):
        (due,) = await outbox.take(10, 60.0)
        await note(outbox, due, DeliveryState.DELIVERED)
        if again:
            assert await store.jobs.retry(job_id)
            claim = await store.leases.claim("worker")
            assert claim
            await store.leases.finish(claim, Phase.COMPLETED)
    assert len((await outbox.page("me", "t", limit=10))[0]) == 2
    await store.jobs.delete(job_id)
    await store.upkeep.removed(f"jobs/{job_id}")
    assert await raw.keys(key(f"*{job_id}*")) == []
    assert await raw.zcard(key("deliveries:t/me")) == await raw.zcard(key("delivery_expiry")) == 0


async def test_the_log_of_deliveries_outlives_an_expired_job(store: Store, outbox: Outbox) -> None:
    delivered, pending = await ended(store, ttl_s=0), await ended(store, ttl_s=0)
    for due in await outbox.take(10, 60.0):
        await note(outbox, due, DeliveryState.DELIVERED if due.job_id == delivered else DeliveryState.PENDING)
    assert await store.upkeep.expire() == 2
    states = {delivery.job_id: delivery.state for delivery in (await outbox.page("me", "t", limit=10))[0]}
    assert states == {delivered: DeliveryState.DELIVERED, pending: DeliveryState.DEAD}
    assert await outbox.take(10, 60.0) == []


async def test_an_index_entry_ends_with_its_delivery(store: Store, outbox: Outbox, raw: Any) -> None:
    await ended(store)
    (due,) = await outbox.take(10, 60.0)
    await note(outbox, due, DeliveryState.DELIVERED)
    kept_s = await raw.zscore(key("delivery_expiry"), due.id) / 1000 - time.time()
    assert LOG_TTL_S - 60 < kept_s <= LOG_TTL_S
    assert await store.upkeep.expire_deliveries() == 0
    await raw.zadd(key("delivery_expiry"), {due.id: 1})
    assert await store.upkeep.expire_deliveries() == 1
    assert await raw.exists(key(f"delivery:{due.id}")) == await raw.zcard(key("deliveries:t/me")) == 0


async def test_the_log_of_a_delivery_keeps_its_last_attempts(store: Store, outbox: Outbox) -> None:
    await ended(store)
    (due,) = await outbox.take(10, 60.0)
    for number in range(1000):
        await outbox.note(due, "me", URL, Attempt(float(number), 500, None), DeliveryState.PENDING, 60.0)
    delivery = await outbox.get(due.id, "t")
    assert delivery
    assert 100 < len(delivery.attempts) < 500
    assert [attempt.at for attempt in delivery.attempts] == [float(n) for n in range(1000)][-len(delivery.attempts) :]


async def test_a_delivery_whose_job_has_expired_cannot_be_made_again(store: Store, outbox: Outbox) -> None:
    await ended(store, ttl_s=0)
    (due,) = await outbox.take(10, 60.0)
    await note(outbox, due, DeliveryState.DELIVERED)
    assert await outbox.redeliver(due.id, "another", "t") is None
    await store.upkeep.expire()
    assert await outbox.redeliver(due.id, "me", "t") is False


async def test_statistics_count_all_tenants(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve_app.store.stats.TENANTS", 3)
    for number in range(7):
        await ended(store, f"w{number}")
    for number in range(8):
        await store.jobs.submit(uuid4().hex, "me", f"q{number}", SPEC, ttl_s=60)
    await asyncio.sleep(0.002)
    stats = await store.stats.read()
    assert (stats.waiting, stats.webhooks, stats.running) == (8, 7, 0)
    assert stats.counters["jobs_submitted"] == 15
    assert stats.queue_age_s > 0.0
    assert await store.stats.recent() is await store.stats.recent(), "not read for each who asks"
