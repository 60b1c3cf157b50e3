"""Listings of an owner's jobs in a dialect: by state, time of creation and page."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from uuid import uuid4

import pytest

from serve_app.models.job import JobError, JobSpec, Phase, State
from serve_app.models.listing import JobQuery
from serve_app.store.redis_store import Store

SPEC = JobSpec("base", dialect="shift")


@pytest.fixture
async def made(store: Store) -> list[str]:
    """Ids of twenty jobs, oldest first, among ten of another owner or dialect."""
    mine = []
    for number in range(30):
        job_id = uuid4().hex
        owner = "other" if number % 6 == 0 else "me"
        await store.jobs.submit(job_id, owner, "t", replace(SPEC, dialect="native") if number % 6 == 3 else SPEC, ttl_s=60)
        if number % 3:
            mine.append(job_id)
    return mine


async def ids(store: Store, query: JobQuery) -> list[str]:
    return [job.id for job in (await store.jobs.query("me", "t", "shift", query)).jobs]


async def test_jobs_come_in_order_of_creation(store: Store, made: list[str]) -> None:
    assert await ids(store, JobQuery(limit=100)) == made[::-1]
    assert await ids(store, JobQuery(limit=100, newest_first=False)) == made


@pytest.mark.parametrize("newest_first", [True, False])
async def test_pages_follow_one_another(store: Store, made: list[str], newest_first: bool) -> None:
    seen: list[str] = []
    after: int | None = None
    while True:
        page = await store.jobs.query("me", "t", "shift", JobQuery(newest_first=newest_first, after=after, limit=3))
        assert page.total == 20
        seen += [job.id for job in page.jobs]
        after = page.next
        if after is None:
            break
    assert seen == (made[::-1] if newest_first else made)


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("offset", [0, 1, 7, 19, 20, 1000])
async def test_a_page_can_be_requested_by_offset(store: Store, made: list[str], newest_first: bool, offset: int) -> None:
    """Over several shelves, as jobs change state."""
    order = random.Random(offset)
    for _ in range(15):
        claim = await store.leases.claim("worker")
        assert claim
        ended = order.choice([None, Phase.COMPLETED, Phase.FAILED])
        if ended:
            await store.leases.finish(claim, ended, JobError("internal", "No.") if ended is Phase.FAILED else None)
    expected = made[::-1] if newest_first else made
    page = await store.jobs.query("me", "t", "shift", JobQuery(newest_first=newest_first, offset=offset, limit=4))
    assert [job.id for job in page.jobs] == expected[offset : offset + 4]
    assert page.total == 20


async def test_a_listing_filters_by_state(store: Store, made: list[str]) -> None:
    claim = await store.leases.claim("worker")
    while claim and claim.job_id not in made:
        claim = await store.leases.claim("worker")
    assert claim
    assert claim.job_id in await ids(store, JobQuery((State.RUNNING,)))
    await store.leases.finish(claim, Phase.COMPLETED)
    assert await ids(store, JobQuery((State.COMPLETED,))) == [claim.job_id]
    await store.jobs.cancel(made[-1])
    assert await ids(store, JobQuery((State.COMPLETED, State.CANCELLED))) == [made[-1], claim.job_id]
    await store.jobs.mark_deleted(made[-1])
    await store.jobs.delete(claim.job_id)
    assert await ids(store, JobQuery((State.COMPLETED, State.CANCELLED))) == []


async def test_a_listing_filters_by_time_of_creation(store: Store, made: list[str]) -> None:
    jobs = [job for job in await store.jobs.get_many(made) if job]
    middle = jobs[10].created_at
    after = await ids(store, JobQuery(made_after=middle, newest_first=False, limit=100))
    assert after == [job.id for job in jobs if job.created_at >= middle]
    before = await ids(store, JobQuery(made_before=middle, newest_first=False, limit=100))
    assert before == [job.id for job in jobs if job.created_at <= middle]
    page = await store.jobs.query("me", "t", "shift", JobQuery(made_after=middle, offset=2, limit=2, newest_first=False))
    assert ([job.id for job in page.jobs], page.total) == (after[2:4], len(after))
    assert await ids(store, JobQuery(made_after=time.time() + 60)) == []


@pytest.mark.parametrize("newest_first", [True, False])
async def test_a_cursor_outside_the_filter_does_not_widen_it(store: Store, made: list[str], newest_first: bool) -> None:
    """The filter may change between two pages."""
    jobs = [job for job in await store.jobs.get_many(made) if job]
    page = await store.jobs.query("me", "t", "shift", JobQuery(newest_first=newest_first, limit=2))
    within = JobQuery(newest_first=newest_first, limit=100)
    within = (
        replace(within, made_before=jobs[8].created_at) if newest_first else replace(within, made_after=jobs[12].created_at)
    )
    assert await ids(store, replace(within, after=page.next)) == await ids(store, within)


async def test_concurrent_jobs_have_one_order(store: Store) -> None:
    made = [uuid4().hex for _ in range(60)]
    await asyncio.gather(*(store.jobs.submit(job_id, "me", "t", SPEC, ttl_s=60) for job_id in made))
    jobs = [job for job in await store.jobs.get_many(made) if job]
    listed = (await store.jobs.query("me", "t", "shift", JobQuery(newest_first=False, limit=100))).jobs
    assert [job.created_at for job in listed] == sorted(job.created_at for job in jobs)
    assert len({job.id for job in listed}) == 60
