"""Listings between two times of creation and two of the end: in steps, complete and in order, against a simple model."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from serve_app.errors import RequestError
from serve_app.local.valkey import Valkey
from serve_app.models.job import Job, JobError, JobSpec, Phase, State
from serve_app.models.listing import JobQuery, SortBy
from serve_app.store import job_list
from serve_app.store.redis_store import Store

SPEC = JobSpec("base", dialect="koldan")
JOBS = 60
FAILURE = JobError("internal", "It failed.")
ALWAYS = JobQuery(made_after=0.0, ended_after=0.0)


@pytest.fixture
async def jobs(store: Store) -> list[Job]:
    """Jobs in the order of their creation, ended in another or not at all."""
    order = random.Random(1)
    running = []
    for _ in range(JOBS):
        await store.jobs.submit(uuid4().hex, "me", order.choice(["t", "t", "other"]), SPEC, ttl_s=60)
        if order.random() < 0.8:
            claim = await store.leases.claim("worker")
            assert claim
            running.append(claim)
        if running and order.random() < 0.7:
            phase = order.choice([Phase.COMPLETED, Phase.FAILED])
            claim = running.pop(order.randrange(len(running)))
            await store.leases.finish(claim, phase, FAILURE if phase is Phase.FAILED else None)
        if order.random() < 0.3:
            await asyncio.sleep(0.002)
    listed = (await store.jobs.query("me", "t", "koldan", JobQuery(newest_first=False, limit=JOBS))).jobs
    assert len(listed) > JOBS / 3
    return list(listed)


def expected(jobs: list[Job], query: JobQuery) -> list[str]:
    """Ids of a listing by the model."""

    def latest(bound: float | None) -> float:
        return math.inf if bound is None else bound

    def matches(job: Job) -> bool:
        ended = job.completed_at
        made_in = (query.made_after or 0.0) <= job.created_at <= latest(query.made_before)
        if ended is None:
            return made_in and query.ended_after is None and query.ended_before is None
        return made_in and (query.ended_after or 0.0) <= ended <= latest(query.ended_before)

    def position(number: int) -> tuple[float, int]:
        job = jobs[number]
        return (job.created_at if query.order is SortBy.MADE else job.completed_at or 0.0), number

    numbers = [n for n, job in enumerate(jobs) if matches(job) and job.phase.state in query.states]
    return [jobs[n].id for n in sorted(numbers, key=position, reverse=query.newest_first)]


def some_query(order: random.Random, jobs: list[Job]) -> JobQuery:
    """A query between times that jobs have."""
    made = sorted(order.choice([*(job.created_at for job in jobs), 0.0]) for _ in range(2))
    ended = sorted(order.choice([*(job.completed_at or 0.0 for job in jobs), 0.0]) for _ in range(2))
    states = tuple(order.sample(list(State), order.randint(1, len(State))))
    return JobQuery(
        states=states,
        order=order.choice([SortBy.MADE, SortBy.ENDED]),
        newest_first=order.random() < 0.5,
        made_after=made[0],
        made_before=made[1] if order.random() < 0.7 else None,
        ended_after=ended[0] if order.random() < 0.9 else None,
        ended_before=ended[1] if order.random() < 0.5 else None,
        limit=order.randint(1, 7),
    )


@pytest.mark.parametrize("budget", [1, 4, 13, 1000])
async def test_pages_are_complete_and_in_order(
    store: Store, jobs: list[Job], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "BUDGET", budget)
    order = random.Random(budget)
    for _ in range(40):
        query = some_query(order, jobs)
        ids = expected(jobs, query)
        for offset in (0, query.limit, 3 * query.limit):
            page = await store.jobs.query("me", "t", "koldan", replace(query, offset=offset))
            assert [job.id for job in page.jobs] == ids[offset : offset + query.limit], query
            assert page.total >= len(ids)
        walked: list[str] = []
        after: int | None = None
        while True:
            page = await store.jobs.query("me", "t", "koldan", replace(query, after=after))
            walked += [job.id for job in page.jobs]
            after = page.next
            if after is None:
                break
        assert walked == ids, query


@pytest.mark.parametrize("budget", [7, 1000])
async def test_the_total_is_exact_where_few_enough_jobs_match(
    store: Store, jobs: list[Job], budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "BUDGET", budget)
    monkeypatch.setattr(job_list, "COUNT_CALLS", JOBS)
    ids = expected(jobs, ALWAYS)
    page = await store.jobs.query("me", "t", "koldan", replace(ALWAYS, limit=3))
    assert ([job.id for job in page.jobs], page.total) == (ids[:3], len(ids))


async def test_a_page_that_too_many_jobs_precede_is_refused(
    store: Store, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_list, "BUDGET", 5)
    monkeypatch.setattr(job_list, "PAGE_CALLS", 2)
    with pytest.raises(RequestError, match="shorter"):
        await store.jobs.query("me", "t", "koldan", replace(ALWAYS, offset=10, limit=JOBS))


@pytest.fixture
async def raw(valkey: Valkey, store: Store) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


async def test_no_call_looks_at_all_jobs(store: Store, raw: Any) -> None:
    # 30,000 jobs, as the scripts would have indexed them.
    for start in range(0, 30_000, 5000):
        entries = {f"job{n}": n * 1024 for n in range(start, start + 5000)}
        for name in ("made", "ended"):
            await raw.zadd(f"murmur:{{q}}:{name}:t/me/koldan:completed", entries)
    await raw.config_resetstat()
    page = await store.jobs.query("me", "t", "koldan", ALWAYS)
    assert page.total >= 29_900
    commands = await raw.info("commandstats")
    looked_at = commands["cmdstat_zscore"]["calls"]
    calls = commands["cmdstat_evalsha"]["calls"]
    assert looked_at <= job_list.COUNT_CALLS * job_list.BUDGET
    assert looked_at / calls <= job_list.BUDGET
