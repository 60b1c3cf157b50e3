"""Sharing of running jobs: a commit asks a job to make room where others wait for their share."""

from __future__ import annotations

from collections import Counter
from uuid import uuid4

import pytest

from serve_app.models.event import EventKind, Progress
from serve_app.models.job import ChannelCheckpoint, JobSpec, Phase, Priority
from serve_app.models.lease import Claim, Commit, CommitOutcome
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX

BULK, INTERACTIVE = (JobSpec("base", priority=priority) for priority in (Priority.BULK, Priority.INTERACTIVE))
LATER_MS = 60_000


async def submitted(store: Store, tenant: str, spec: JobSpec = BULK) -> str:
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "owner", tenant, spec, ttl_s=60)
    return job_id


async def claimed(store: Store, places: int = 1, cap: int = 0) -> list[Claim]:
    """Fill the places of a Runner."""
    claims = [await store.leases.claim("worker", cap, places - number) for number in range(places)]
    assert all(claims)
    return [claim for claim in claims if claim]


class Windows:
    """Commits of windows of 24 s, one after another for each job."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._committed: Counter[str] = Counter()

    async def commit(self, claim: Claim) -> CommitOutcome:
        self._committed[claim.job_id] += 1
        number = self._committed[claim.job_id]
        progress = Progress(number * 24.0, None, number, None, None)
        state = ChannelCheckpoint(number * 24 * 16_000, number * 24.0)
        return await self._store.leases.commit(claim, Commit(number, (), 1.0, None, "cpu", progress, state=state))


async def age(store: Store, *claims: Claim) -> None:
    """Let claims be as old as if their jobs had run for a minute."""
    for claim in claims:
        await store._redis.hincrby(f"{PREFIX}job:{claim.job_id}", "claimed_at", -LATER_MS)


async def tenant_of(store: Store, claim: Claim | None) -> str:
    assert claim
    job = await store.jobs.get(claim.job_id)
    assert job
    return job.tenant


async def shared(store: Store) -> Counter[str]:
    """Places that tenants a and b have of 4, once the long jobs of a have committed a few windows beside those of b."""
    for _ in range(8):
        await submitted(store, "a")
    running, windows = await claimed(store, 4), Windows(store)
    for _ in range(8):
        await submitted(store, "b")
    for _ in range(3):
        await age(store, *running)
        for claim in list(running):
            if await windows.commit(claim) is CommitOutcome.YIELD:
                await store.leases.give_back(claim)
                running.remove(claim)
                running += await claimed(store)
    return Counter([await tenant_of(store, claim) for claim in running])


async def test_a_short_clip_is_claimed_after_one_commit_of_another_tenants_long_jobs(store: Store) -> None:
    for _ in range(8):
        await submitted(store, "a")
    running = await claimed(store, 4)
    windows = Windows(store)
    assert [await windows.commit(claim) for claim in running] == [CommitOutcome.COMMITTED] * 4, "nobody else waits"
    clip = await submitted(store, "b", INTERACTIVE)
    assert await windows.commit(running[0]) is CommitOutcome.YIELD
    assert [await windows.commit(claim) for claim in running[1:]] == [CommitOutcome.COMMITTED] * 3, "one place is enough"
    assert await store.leases.give_back(running[0])
    (claim,) = await claimed(store)
    assert claim.job_id == clip
    await store.leases.finish(claim, Phase.COMPLETED)
    (claim,) = await claimed(store)
    assert claim.job_id == running[0].job_id, "it kept its place in its tenant's queue"
    job = await store.jobs.get(claim.job_id)
    assert job
    assert (job.attempts_left, job.setbacks, job.checkpoint.next_window) == (2, 0, 2)


async def test_a_tenant_gets_its_share_and_no_more(store: Store) -> None:
    assert await shared(store) == {"a": 2, "b": 2}


async def test_the_share_is_weighted(store: Store) -> None:
    await store.leases.set_weights({"a": 3})
    assert await shared(store) == {"a": 3, "b": 1}


async def test_a_bulk_job_makes_room_for_an_interactive_one_of_its_tenant(store: Store) -> None:
    await submitted(store, "a")
    await submitted(store, "a")
    running, windows = await claimed(store, 2), Windows(store)
    await submitted(store, "b")  # has the next turn
    urgent = await submitted(store, "a", INTERACTIVE)
    assert await windows.commit(running[0]) is CommitOutcome.YIELD
    await store.leases.give_back(running[0])
    (claim,) = await claimed(store)
    assert claim.job_id == urgent, "the place stays its tenant's"


async def test_an_interactive_job_makes_no_room_inside_its_tenant(store: Store) -> None:
    await submitted(store, "a", INTERACTIVE)
    running, windows = await claimed(store), Windows(store)
    for spec in (BULK, INTERACTIVE):
        await submitted(store, "a", spec)
        assert await windows.commit(running[0]) is CommitOutcome.COMMITTED


async def test_no_job_makes_room_while_a_runner_has_a_free_place(store: Store) -> None:
    await submitted(store, "a")
    await submitted(store, "a")
    running, windows = await claimed(store, 2), Windows(store)
    assert await store.leases.claim("idle") is None
    await submitted(store, "b", INTERACTIVE)
    assert await windows.commit(running[0]) is CommitOutcome.COMMITTED
    await store._redis.zadd(f"{PREFIX}idle", {"idle": 0})  # it claimed nothing for long
    assert await windows.commit(running[0]) is CommitOutcome.YIELD


async def test_a_bulk_job_makes_room_at_its_tenants_cap_although_places_are_free(store: Store) -> None:
    await submitted(store, "a")
    (running,), windows = await claimed(store, cap=1), Windows(store)
    urgent = await submitted(store, "a", INTERACTIVE)
    assert await store.leases.claim("worker", 1) is None
    assert await windows.commit(running) is CommitOutcome.YIELD
    await store.leases.give_back(running)
    (claim,) = await claimed(store, cap=1)
    assert claim.job_id == urgent


async def test_a_job_that_made_room_runs_for_a_while_before_it_does_again(store: Store) -> None:
    await submitted(store, "a")
    await submitted(store, "b")
    (first,), windows = await claimed(store), Windows(store)
    assert await windows.commit(first) is CommitOutcome.YIELD
    await store.leases.give_back(first)
    (second,) = await claimed(store)
    assert await windows.commit(second) is CommitOutcome.YIELD
    await store.leases.give_back(second)
    (first,) = await claimed(store)
    assert await windows.commit(first) is CommitOutcome.COMMITTED
    await age(store, first)
    assert await windows.commit(first) is CommitOutcome.YIELD


async def test_a_job_makes_no_room_for_a_tenant_that_has_its_share(store: Store) -> None:
    for tenant in ("a", "b"):
        for _ in range(3):
            await submitted(store, tenant)
    running, windows = await claimed(store, 4), Windows(store)
    await age(store, *running)
    assert {await windows.commit(claim) for claim in running} == {CommitOutcome.COMMITTED}


@pytest.mark.parametrize("waiting", [10, 2000])
async def test_a_claim_costs_the_same_with_many_jobs_waiting(store: Store, waiting: int) -> None:
    for _ in range(waiting + 1):
        await submitted(store, "a")
    before = (await store._redis.info("stats"))["total_commands_processed"]
    await claimed(store)
    assert (await store._redis.info("stats"))["total_commands_processed"] - before < 120


async def test_interactive_jobs_that_overtake_bulk_ones_add_no_events_to_their_streams(store: Store) -> None:
    bulk = [await submitted(store, "a") for _ in range(10)]
    for _ in range(100):
        for _ in range(3):
            await submitted(store, "a", INTERACTIVE)
        for claim in [*await claimed(store), *await claimed(store), *await claimed(store)]:
            await store.leases.finish(claim, Phase.COMPLETED)
    for position, job_id in enumerate(bulk):
        events = await store.events.read(job_id)
        assert sum(event.kind is EventKind.PROGRESS for event in events) <= position + 1


async def test_cancels_behind_a_job_add_no_events_to_its_stream(store: Store) -> None:
    first = await submitted(store, "a")
    before = await store.events.read(first)
    for _ in range(50):
        await store.jobs.cancel(await submitted(store, "a"))
    assert await store.events.read(first) == before


async def test_a_submit_wakes_one_runner_that_has_a_place(store: Store) -> None:
    async with store.events.subscribe("work") as messages:
        await submitted(store, "a")
        assert await anext(messages) == ("work", ""), "all, where none is known"
        await store.leases.claim("one", 0, 2)
        await store.leases.claim("two", 0, 2)
        names = set()
        for _ in range(2):
            await submitted(store, "a")
            names.add((await anext(messages))[1])
        assert names == {"one", "two"}


async def test_the_last_places_are_for_clips_of_tenants_with_less_than_their_share(store: Store) -> None:
    for _ in range(8):
        await submitted(store, "a")
        await submitted(store, "a", INTERACTIVE)
    claims = [await store.leases.claim("worker", 0, 8 - number, 2) for number in range(7)]
    assert [claim is not None for claim in claims] == [True] * 6 + [False]
    assert await store.leases.claim("worker", 0, 2, 2) is None, "however urgent, it has all places already"
    await submitted(store, "c")
    assert await store.leases.claim("worker", 0, 2, 2) is None, "a bulk job can wait until room is made"
    clip = await submitted(store, "b", INTERACTIVE)
    claim = await store.leases.claim("worker", 0, 2, 2)
    assert claim
    assert claim.job_id == clip
    windows = Windows(store)
    assert claims[0]
    assert await windows.commit(claims[0]) is CommitOutcome.YIELD, "a place in reserve is none for the bulk job"
