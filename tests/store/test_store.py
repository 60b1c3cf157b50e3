"""Every script against a real Valkey."""

from __future__ import annotations

import asyncio
from dataclasses import fields, replace
from uuid import uuid4

import orjson
import pytest

from serve_app.models.delivery import Attempt, DeliveryState
from serve_app.models.event import EventKind, Progress
from serve_app.models.job import ChannelCheckpoint, Checkpoint, JobError, JobSpec, JobWarning, Phase, Priority
from serve_app.models.lease import AttemptCost, Claim, Commit, CommitOutcome, LeaseState
from serve_app.models.submission import IdempotencyRecord, RetryOutcome, SubmitOutcome, SubmitResult
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX
from serve_app.store.webhook_outbox import Outbox

SPEC = JobSpec("base")


async def submitted(store: Store, tenant: str = "t", spec: JobSpec = SPEC, queue_limit: int = 0) -> str:
    job_id = uuid4().hex
    receipt = await store.jobs.submit(job_id, "owner", tenant, spec, ttl_s=60, queue_limit=queue_limit)
    assert receipt == SubmitResult(SubmitOutcome.NEW, job_id, await store.jobs.get(job_id))
    return job_id


async def claimed(store: Store, tenant_cap: int = 0) -> Claim:
    claim = await store.leases.claim("worker", tenant_cap)
    assert claim
    return claim


def window(index: int, *texts: str) -> Commit:
    progress = Progress(index * 10.0, None, index + 1, None, None)
    segments = tuple(orjson.dumps({"id": i, "text": text}).decode() for i, text in enumerate(texts))
    state = ChannelCheckpoint((index + 1) * 16_000, index + 1.0, {"en": 1.0})
    return Commit(index, segments, index + 1.0, "en", "cpu", progress, state=state)


async def payloads(store: Store, job_id: str, kind: EventKind) -> list[dict[str, object]]:
    return [orjson.loads(event.data) for event in await store.events.read(job_id) if event.kind is kind]


async def phase(store: Store, job_id: str) -> Phase | None:
    job = await store.jobs.get(job_id)
    return job.phase if job else None


async def test_a_job_comes_back_as_it_was_submitted(store: Store) -> None:
    spec = JobSpec("base", url="http://a/b", language="de", metadata={"ä": "b"}, priority=Priority.BULK, temperature=0.2)
    job = await store.jobs.get(await submitted(store, spec=spec))
    assert job
    assert job.spec == spec
    assert (job.phase, job.attempts, job.started_at, job.queue_position) == (Phase.QUEUED, 0, None, 0)


async def test_a_spec_is_replaced_under_the_lease_or_after_the_end(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", url="http://a/b"))
    assert not await store.jobs.replace_spec(job_id, SPEC)
    claim = await claimed(store)
    assert not await store.jobs.replace_spec(job_id, SPEC)
    assert not await store.jobs.replace_spec(job_id, SPEC, replace(claim, token=claim.token + 1))
    assert await store.jobs.replace_spec(job_id, JobSpec("base", url="http://c/d"), claim)
    assert (await store.jobs.get(job_id)).spec.url == "http://c/d"  # type: ignore[union-attr]
    await store.leases.finish(claim, Phase.COMPLETED)
    assert not await store.jobs.replace_spec(job_id, SPEC, claim)
    assert await store.jobs.replace_spec(job_id, SPEC)
    assert (await store.jobs.get(job_id)).spec == SPEC  # type: ignore[union-attr]
    assert not await store.jobs.replace_spec("nothing", SPEC)


async def test_ended_private_jobs_are_listed_until_they_are_settled(store: Store) -> None:
    for spec in (JobSpec("base", private=True), SPEC):
        await submitted(store, spec=spec)
    claims = [await claimed(store), await claimed(store)]
    assert await store.upkeep.private_ended(0.0) == []
    for claim in claims:
        await store.leases.finish(claim, Phase.COMPLETED)
    assert await store.upkeep.private_ended(0.0) == [claims[0].job_id]
    assert await store.upkeep.private_ended(60.0) == []
    await store.upkeep.private_settled(claims[0].job_id)
    assert await store.upkeep.private_ended(0.0) == []


async def test_a_private_flag_inside_a_users_string_does_not_make_a_job_private(store: Store) -> None:
    hidden = '{"private":true}'
    spec = JobSpec("base", prompt=hidden, metadata={"private": "1", "a": hidden})
    job_id = await submitted(store, spec=spec)
    await store.leases.finish(await claimed(store), Phase.FAILED, JobError("internal", "It failed."))
    assert await store.upkeep.private_ended(0.0) == []
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED, "a private job is not retried"


async def test_a_missing_job_is_none(store: Store) -> None:
    assert await store.jobs.get("nothing") is None
    assert await store.leases.claim("worker") is None
    assert await store.jobs.cancel("nothing") is None
    assert await store.jobs.delete("nothing") is None


async def test_a_full_queue_takes_no_more(store: Store) -> None:
    await submitted(store, queue_limit=1)
    assert (await store.jobs.submit(uuid4().hex, "owner", "t", SPEC, ttl_s=60, queue_limit=1)).outcome is SubmitOutcome.FULL
    await submitted(store, "another", queue_limit=1)


async def test_positions_count_jobs_before_in_the_same_queue(store: Store) -> None:
    ids = [await submitted(store) for _ in range(3)]
    assert [job.queue_position for job in await store.jobs.get_many(ids) if job] == [0, 1, 2]


async def test_the_pace_of_a_queue_is_measured_while_jobs_wait(store: Store) -> None:
    assert await store.usage.pace_s("t") is None
    ids = [await submitted(store) for _ in range(4)]
    await claimed(store)
    assert await store.usage.pace_s("t") is None
    await asyncio.sleep(0.05)  # a pace is a matter of time
    await claimed(store)
    pace_s = await store.usage.pace_s("t")
    assert pace_s
    assert pace_s >= 0.05
    job = await store.jobs.get(ids[3])
    assert job
    assert job.queue_position == 1
    assert job.eta_s == pytest.approx(2 * pace_s, abs=0.06)


async def test_interactive_goes_before_bulk(store: Store) -> None:
    bulk = await submitted(store, spec=JobSpec("base", priority=Priority.BULK))
    interactive = await submitted(store)
    assert [(await claimed(store)).job_id for _ in range(2)] == [interactive, bulk]


async def test_tenants_take_turns_however_much_one_submits(store: Store) -> None:
    many = [await submitted(store, "many") for _ in range(5)]
    few = [await submitted(store, "few") for _ in range(2)]
    first = [(await claimed(store)).job_id for _ in range(4)]
    assert set(first) == {*many[:2], *few}


async def test_a_tenant_that_comes_late_does_not_catch_up(store: Store) -> None:
    for _ in range(8):
        await submitted(store, "early")
    for _ in range(4):
        await claimed(store)
    for _ in range(4):
        await submitted(store, "late")
    tenants = []
    for _ in range(4):
        job = await store.jobs.get((await claimed(store)).job_id)
        tenants.append(job and job.tenant)
    assert tenants.count("late") == 2


async def test_a_tenants_cap_keeps_its_jobs_waiting(store: Store) -> None:
    await submitted(store, "a")
    await submitted(store, "a")
    other = await submitted(store, "b")
    first = await claimed(store, tenant_cap=1)
    assert (await claimed(store, tenant_cap=1)).job_id == other
    assert await store.leases.claim("worker", 1) is None
    assert await store.leases.finish(first, Phase.COMPLETED)
    await claimed(store, tenant_cap=1)


async def test_only_the_holder_of_the_token_may_write(store: Store) -> None:
    job_id = await submitted(store)
    old = await claimed(store)
    assert await store.leases.give_back(old)
    new = await claimed(store)
    assert new.token > old.token
    assert not await store.leases.enter(old, Phase.TRANSCODING)
    assert await store.leases.commit(old, window(0, "stale")) is CommitOutcome.LOST
    assert not await store.leases.finish(old, Phase.FAILED, JobError("internal", "stale"))
    assert not await store.leases.give_back(old)
    assert await store.leases.renew(old) is LeaseState.LOST
    assert await store.leases.commit(new, window(0, "fresh")) is CommitOutcome.COMMITTED
    assert [s["text"] for s in await payloads(store, job_id, EventKind.SEGMENT)] == ["fresh"]


async def test_a_place_is_committed_once(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    assert await store.leases.commit(claim, window(0, "a", "b")) is CommitOutcome.COMMITTED
    assert await store.leases.commit(claim, window(0, "a", "b")) is CommitOutcome.REPEATED
    assert await store.leases.commit(claim, window(1, "c")) is CommitOutcome.COMMITTED
    replanned = replace(window(1, "b"), window=7)
    assert await store.leases.commit(claim, replanned) is CommitOutcome.REPEATED, "whatever its number"
    assert [s["text"] for s in await payloads(store, job_id, EventKind.SEGMENT)] == ["a", "b", "c"]
    job = await store.jobs.get(job_id)
    assert job
    assert (job.checkpoint.next_window, job.checkpoint.segments, job.checkpoint.end_s) == (2, 3, 2.0)
    assert job.checkpoint.channels == {None: ChannelCheckpoint(32_000, 2.0, {"en": 1.0})}


async def test_a_job_ends_once(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    assert await store.leases.finish(claim, Phase.FAILED, JobError("corrupt_media", "It is damaged."))
    assert not await store.leases.finish(claim, Phase.COMPLETED)
    assert await store.jobs.cancel(job_id) is Phase.FAILED
    assert await payloads(store, job_id, EventKind.DONE) == [
        {"phase": "failed", "error": {"code": "corrupt_media", "message": "It is damaged."}}
    ]
    job = await store.jobs.get(job_id)
    assert job
    assert job.error == JobError("corrupt_media", "It is damaged.")
    assert job.completed_at


async def test_a_failed_job_is_retried_from_its_checkpoint(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.leases.commit(claim, window(0, "a"))
    assert await store.jobs.retry(job_id) is RetryOutcome.REFUSED
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    again = await claimed(store)
    job = await store.jobs.get(job_id)
    assert job
    assert (again.job_id, job.checkpoint.next_window, job.attempts, job.error) == (job_id, 1, 2, None)
    await store.leases.commit(again, window(1, "b"))
    await store.leases.finish(again, Phase.COMPLETED)
    assert [s["text"] for s in await payloads(store, job_id, EventKind.SEGMENT)] == ["a", "b"]
    assert await payloads(store, job_id, EventKind.DONE) == [{"phase": "completed"}]
    assert await store.jobs.retry("nothing") is None


async def test_a_failed_job_without_its_stream_is_retried_from_the_start(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.leases.commit(claim, window(0, "a"))
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    await store._redis.delete(f"{PREFIX}events:{job_id}")
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    job = await store.jobs.get(job_id)
    assert job
    assert job.checkpoint == Checkpoint()
    assert await store.leases.commit(await claimed(store), window(0, "a")) is CommitOutcome.COMMITTED


async def test_a_job_without_attempts_left_is_not_retried(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", max_attempts=1))
    await store.leases.finish(await claimed(store), Phase.FAILED, JobError("internal", "It failed."))
    assert await store.jobs.retry(job_id) is RetryOutcome.REFUSED


async def test_a_waiting_job_is_cancelled_at_once(store: Store) -> None:
    job_id = await submitted(store)
    assert await store.jobs.cancel(job_id) is Phase.QUEUED
    assert await phase(store, job_id) is Phase.CANCELLED
    assert await store.leases.claim("worker") is None


async def test_a_running_job_whose_cancel_was_requested_commits_no_more(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    assert await store.jobs.cancel(job_id) is Phase.DOWNLOADING
    assert await store.leases.commit(claim, window(0, "late")) is CommitOutcome.CANCELLING
    assert await store.leases.renew(claim) is LeaseState.CANCELLING
    assert await store.leases.finish(claim, Phase.COMPLETED)
    assert await phase(store, job_id) is Phase.CANCELLED


async def test_a_running_job_whose_cancel_was_requested_is_not_requeued(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.jobs.cancel(job_id)
    assert await store.leases.give_back(claim)
    assert await phase(store, job_id) is Phase.CANCELLED
    assert await store.leases.claim("worker") is None


async def test_a_submit_that_is_sent_again_changes_nothing(store: Store) -> None:
    """redis-py does so when it loses the reply."""
    job_id = await submitted(store)
    claim = await claimed(store)
    assert await store.leases.commit(claim, window(0, "a")) is CommitOutcome.COMMITTED
    assert await store.jobs.submit(job_id, "owner", "t", SPEC, ttl_s=60) == SubmitResult(SubmitOutcome.NEW, job_id)
    assert await store.leases.claim("worker") is None
    job = await store.jobs.get(job_id)
    assert job
    assert (job.phase, job.checkpoint.next_window) == (Phase.DOWNLOADING, 1)


@pytest.mark.parametrize("cost", list(AttemptCost))
async def test_a_requeued_job_continues_from_its_checkpoint(store: Store, cost: AttemptCost) -> None:
    await submitted(store)
    claim = await claimed(store)
    assert await store.leases.commit(claim, window(0, "a")) is CommitOutcome.COMMITTED
    assert await store.leases.give_back(claim, cost=cost)
    job = await store.jobs.get((await claimed(store)).job_id)
    assert job
    assert job.checkpoint.next_window == 1
    assert job.attempts == (2 if cost is AttemptCost.ATTEMPT else 1)


async def test_a_delayed_job_is_not_claimed_early(store: Store) -> None:
    job_id = await submitted(store)
    assert await store.leases.give_back(await claimed(store), delay_s=3600)
    assert await store.leases.claim("worker") is None
    assert await store.jobs.cancel(job_id) is Phase.QUEUED
    assert await phase(store, job_id) is Phase.CANCELLED


async def test_a_listing_is_newest_first_in_pages_and_of_one_tenant(store: Store) -> None:
    ids = [await submitted(store) for _ in range(5)]
    await submitted(store, "another")
    first, cursor = await store.jobs.page("owner", "t", limit=3)
    second, end = await store.jobs.page("owner", "t", limit=3, before=cursor)
    assert [job.id for job in first + second] == ids[::-1]
    assert end is None


async def test_a_deleted_job_leaves_no_trace(store: Store) -> None:
    job_id = await submitted(store)
    assert await store.jobs.delete(job_id) is False
    await store.leases.finish(await claimed(store), Phase.COMPLETED)
    assert await store.jobs.delete(job_id) is True
    assert await store.jobs.get(job_id) is None
    assert not await store.events.exists(job_id)
    assert await store.jobs.page("owner", "t", limit=10) == ([], None)
    assert await store.upkeep.expire() == 0


async def test_results_expire_and_streams_are_dropped(store: Store) -> None:
    job_id = uuid4().hex
    await store.jobs.submit(job_id, "owner", "t", SPEC, ttl_s=0)
    await store.leases.finish(await claimed(store), Phase.COMPLETED)
    assert await store.upkeep.drop_old_streams(3600) == 0
    assert await store.upkeep.drop_old_streams(0) == 1
    assert not await store.events.exists(job_id)
    assert await store.upkeep.expire() == 1
    assert await store.jobs.get(job_id) is None
    assert await store.upkeep.removals() == [f"jobs/{job_id}"]


async def test_a_tenant_that_weighs_more_has_more_turns(store: Store) -> None:
    await store.leases.set_weights({"vip": 3, "small": 0.5})
    names = {await submitted(store, tenant): tenant for tenant in ("big", "vip", "small") for _ in range(9)}
    order = [names[(await claimed(store)).job_id] for _ in range(9)]
    assert order.count("vip") == 6
    assert order.count("big") == 2
    assert order.count("small") == 1


async def test_weights_are_those_of_the_last_settings(store: Store) -> None:
    await store.leases.set_weights({"vip": 3})
    await store.leases.set_weights({})
    names = {await submitted(store, tenant): tenant for tenant in ("big", "vip") for _ in range(4)}
    order = [names[(await claimed(store)).job_id] for _ in range(4)]
    assert order.count("vip") == 2


async def test_queued_jobs_get_progress_events_as_they_move_up(store: Store) -> None:
    ids = [await submitted(store) for _ in range(13)]
    assert [(await payloads(store, job, EventKind.PROGRESS))[0]["queue_position"] for job in ids] == list(range(13))
    await claimed(store)
    assert [(await payloads(store, job, EventKind.PROGRESS))[-1]["queue_position"] for job in ids[1:]] == [
        *range(10),
        11,
        12,
    ]
    await claimed(store)
    progress = [(await payloads(store, job, EventKind.PROGRESS))[-1] for job in ids[2:]]
    assert [entry["queue_position"] for entry in progress] == [*range(10), 12]
    assert all(entry["eta_s"] is not None for entry in progress[:10])
    await store.jobs.cancel(ids[2])
    assert (await payloads(store, ids[3], EventKind.PROGRESS))[-1]["queue_position"] == 0


async def test_progress_has_the_same_fields_while_queued_and_while_running(store: Store) -> None:
    job_id = await submitted(store)
    await store.leases.commit(await claimed(store), window(0, "a"))
    queued, running = await payloads(store, job_id, EventKind.PROGRESS)
    assert queued.keys() == running.keys() == {field.name for field in fields(Progress)}


async def test_a_claim_emits_few_events_in_a_long_queue(store: Store) -> None:
    ids = [await submitted(store) for _ in range(250)]
    before = [len(await store.events.read(job)) for job in ids]
    await claimed(store)
    after = [len(await store.events.read(job)) for job in ids]
    assert sum(after) - sum(before) == 1 + 10, "a phase of the one, positions of ten"


async def test_an_end_queues_its_webhook_and_a_retry_takes_it_back(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", webhook="https://there/"))
    await submitted(store)
    await store.leases.finish(await claimed(store), Phase.FAILED, JobError("internal", "It failed."))
    await store.leases.finish(await claimed(store), Phase.COMPLETED)
    assert (await store.stats.read()).webhooks == 1
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    assert (await store.stats.read()).webhooks == 0
    await store.leases.finish(await claimed(store), Phase.COMPLETED)
    assert (await store.stats.read()).webhooks == 1


async def test_counters_count_what_happened(store: Store) -> None:
    ids = [await submitted(store) for _ in range(4)]
    await store.leases.finish(await claimed(store), Phase.COMPLETED)
    claim = await claimed(store)
    await store.jobs.cancel(claim.job_id)
    await store.leases.finish(claim, Phase.CANCELLED)
    await store.jobs.cancel(ids[2])
    stats = await store.stats.read()
    counters = stats.counters
    assert (counters["jobs_submitted"], counters["jobs_completed"], counters["jobs_cancelled"]) == (4, 1, 2)
    assert (counters["cancel_ms"], counters["wait_ms"]) == (2, 2)
    assert sum(n for name, n in counters.items() if name.startswith("cancel_ms:le:")) == 2
    assert (stats.waiting, stats.running, stats.delayed) == (1, 0, 0)


async def test_a_job_marked_as_deleted_leaves_the_listings_only(store: Store) -> None:
    job_id = await submitted(store)
    assert await store.jobs.mark_deleted(job_id) is False
    await store.leases.finish(await claimed(store), Phase.FAILED, JobError("internal", "It failed."))
    assert await store.jobs.mark_deleted(job_id) is True
    assert await store.jobs.mark_deleted(job_id) is False
    assert await store.jobs.mark_deleted("nothing") is None
    assert await store.jobs.page("owner", "t", limit=10) == ([], None)
    job = await store.jobs.get(job_id)
    assert job
    assert job.deleted_at is not None
    assert job.phase is Phase.FAILED
    assert await store.jobs.retry(job_id) is RetryOutcome.REFUSED
    assert await store.jobs.delete(job_id) is True


async def test_a_listing_shows_jobs_of_its_owner(store: Store) -> None:
    mine, theirs = uuid4().hex, uuid4().hex
    await store.jobs.submit(mine, "me", "t", SPEC, ttl_s=60)
    await store.jobs.submit(theirs, "they", "t", SPEC, ttl_s=60)
    assert [job.id for job in (await store.jobs.page("me", "t", limit=10))[0]] == [mine]


async def test_a_job_with_too_many_stalls_is_failed(store: Store) -> None:
    job_id = await submitted(store)
    for _ in range(2):
        assert await store.leases.give_back(await claimed(store), cost=AttemptCost.STALL)
    claim = await claimed(store)
    assert await store.leases.commit(claim, window(0, "a")) is CommitOutcome.COMMITTED, "progress clears it"
    for _ in range(3):
        assert await store.leases.give_back(claim, cost=AttemptCost.STALL)
        claim = await store.leases.claim("worker") or claim
    job = await store.jobs.get(job_id)
    assert job
    assert job.error
    assert (job.phase, job.error.code) == (Phase.FAILED, "internal")
    assert "workers" in job.error.message


async def test_a_job_continues_with_a_fallback_and_a_retry_starts_with_the_first_model(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", fallbacks=("small", "tiny")))
    for model, following in (("base", "small"), ("small", "tiny"), ("tiny", None)):
        job = await store.jobs.get(job_id)
        assert job
        assert (job.model, job.next_model) == (model, following)
        claim = await claimed(store)
        if following:
            await store.leases.give_back(claim, model=following, cost=AttemptCost.NOTHING)
    await store.leases.finish(claim, Phase.FAILED, JobError("engine_failed", "No."))
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    job = await store.jobs.get(job_id)
    assert job
    assert job.model == "base"


async def test_a_job_to_be_deleted_when_ended_is_hidden_and_sends_no_webhook(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", webhook="https://example.com/x"))
    claim = await claimed(store)
    assert await store.jobs.delete_when_ended(job_id)
    assert (await store.jobs.page("owner", "t", limit=10))[0] == []
    await store.leases.finish(claim, Phase.CANCELLED)
    assert (await store.stats.read()).webhooks == 0
    assert await store.jobs.delete_when_ended(job_id) is False
    assert await store.upkeep.expire() == 1
    assert await store.jobs.get(job_id) is None
    assert await store.jobs.delete_when_ended("nothing") is None


async def test_progress_forgives_attempts_and_lost_workers(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", max_attempts=3))
    index = 0
    for _ in range(4):
        for cost in (AttemptCost.ATTEMPT, AttemptCost.LOSS):
            await store.leases.give_back(await claimed(store), cost=cost)
        claim = await claimed(store)
        for _ in range(30):
            assert await store.leases.commit(claim, window(index, "a")) is CommitOutcome.COMMITTED
            index += 1
        job = await store.jobs.get(job_id)
        assert job
        assert (job.attempts, job.setbacks) == (1, 0), "since the last commit"
        await store.leases.give_back(claim)


async def test_a_cancelled_job_goes_on_from_its_checkpoint(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.leases.commit(claim, window(0, "a"))
    await store.jobs.cancel(job_id)
    await store.leases.finish(claim, Phase.CANCELLED, partial=True)
    job = await store.jobs.get(job_id)
    assert job
    assert (job.partial, job.transcript) == (True, claim.token)
    assert await store.jobs.retry(job_id) is RetryOutcome.REFUSED, "unless that is what the caller means"
    assert await store.jobs.retry(job_id, (Phase.FAILED, Phase.CANCELLED)) is RetryOutcome.QUEUED
    claim = await claimed(store)
    job = await store.jobs.get(job_id)
    assert job
    assert (job.checkpoint.next_window, job.cancelling, job.partial, job.transcript) == (1, False, False, None)
    assert await store.leases.commit(claim, window(1, "b")) is CommitOutcome.COMMITTED
    await store.leases.finish(claim, Phase.COMPLETED)
    assert [s["text"] for s in await payloads(store, job_id, EventKind.SEGMENT)] == ["a", "b"]


@pytest.mark.parametrize("ended", [Phase.FAILED, Phase.CANCELLED])
async def test_the_stream_of_a_job_that_did_not_complete_is_kept_to_its_expiry(store: Store, ended: Phase) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.leases.commit(claim, window(0, "a"))
    await store.leases.finish(claim, ended, JobError("internal", "It failed."))
    assert await store.upkeep.drop_old_streams(0) == 0
    assert await store.jobs.retry(job_id, (ended,)) is RetryOutcome.QUEUED
    job = await store.jobs.get(job_id)
    assert job
    assert job.checkpoint.next_window == 1


async def test_channels_have_places_of_their_own(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    left, right = ChannelCheckpoint(32_000, 2.0, {"en": 1.5}), ChannelCheckpoint(16_000, 1.0, {"fr": 1.0})
    assert await store.leases.commit(claim, replace(window(0, "a"), channel=0, state=left)) is CommitOutcome.COMMITTED
    assert await store.leases.commit(claim, replace(window(1, "b"), channel=1, state=right)) is CommitOutcome.COMMITTED
    assert await store.leases.commit(claim, replace(window(2, "c"), channel=1, state=right)) is CommitOutcome.REPEATED
    job = await store.jobs.get(job_id)
    assert job
    assert job.checkpoint.channels == {0: left, 1: right}


@pytest.mark.parametrize(("channels", "expected"), [(None, {None}), (2, {0, 1})])
async def test_a_job_of_a_version_that_stored_no_places_goes_on(
    store: Store, channels: int | None, expected: set[int | None]
) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    await store.leases.note_audio(claim, channels=channels)
    await store._redis.hset(f"{PREFIX}job:{job_id}", mapping={"next_window": 3, "end_s": "7.5"})
    job = await store.jobs.get(job_id)
    assert job
    assert job.checkpoint.channels == {channel: ChannelCheckpoint(120_000, 7.5) for channel in expected}


async def test_warnings_are_kept_once_and_bounded(store: Store) -> None:
    job_id = await submitted(store)
    claim = await claimed(store)
    gap = JobWarning("gap", 'The audio says "nothing" here.', 1.0, 2.5)
    for _ in range(2):
        assert await store.leases.warn(claim, gap)
    await store.leases.commit(claim, replace(window(0, "a"), warning=JobWarning("damaged", "It is damaged.")))
    job = await store.jobs.get(job_id)
    assert job
    assert job.warnings == (gap, JobWarning("damaged", "It is damaged."))
    for number in range(200):
        await store.leases.warn(claim, replace(gap, start=float(number)))
    job = await store.jobs.get(job_id)
    assert job
    assert (len(job.warnings), job.warnings[-1].code) == (100, "more_warnings")
    await store.leases.finish(claim, Phase.COMPLETED)
    assert not await store.leases.warn(claim, gap)


async def test_days_between_an_end_and_a_retry_count_in_no_histogram(store: Store) -> None:
    job_id, days_ms = await submitted(store), 5 * 86_400_000
    claim = await claimed(store)
    await store.leases.note_audio(claim, total_s=1.0)
    await store.leases.finish(claim, Phase.FAILED, JobError("internal", "It failed."))
    for name in ("created_at", "started_at", "phase_at"):
        await store._redis.hincrby(f"{PREFIX}job:{job_id}", name, -days_ms)
    await store._redis.hdel(f"{PREFIX}job:{job_id}", "started_at")  # as if it had failed before it was claimed
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    claim = await claimed(store)
    await store.leases.commit(claim, window(0, "a"))
    await store.leases.finish(claim, Phase.COMPLETED)
    counters = (await store.stats.read()).counters
    sums = {name: total for name, total in counters.items() if name.endswith(":sum")}
    assert {"real_time:sum", "wait_ms:sum", "first_segment_ms:sum"} <= sums.keys()
    assert max(sums.values()) < days_ms


async def test_a_retry_forgets_the_delivery_that_was_due(store: Store) -> None:
    job_id = await submitted(store, spec=JobSpec("base", webhook="https://there/"))
    await store.leases.finish(await claimed(store), Phase.FAILED, JobError("internal", "It failed."))
    outbox = Outbox(store._redis)
    (due,) = await outbox.take(1, 60.0)
    refused = Attempt(1.0, None, "It refused.")
    await outbox.note(due, "owner", "https://there/", refused, DeliveryState.PENDING, next_s=60.0)
    assert (await outbox.page("owner", "t", limit=10))[0]
    assert await store.jobs.retry(job_id) is RetryOutcome.QUEUED
    assert not (await outbox.page("owner", "t", limit=10))[0]


async def test_the_key_of_a_job_that_is_being_deleted_is_free(store: Store) -> None:
    once = IdempotencyRecord("digest", "fingerprint")
    await store.jobs.submit("first", "owner", "t", SPEC, ttl_s=60, idempotency=once)
    claim = await claimed(store)
    assert await store.jobs.delete_when_ended("first")
    second = await store.jobs.submit("second", "owner", "t", SPEC, ttl_s=60, idempotency=once)
    assert second.outcome is SubmitOutcome.NEW
    await store.leases.finish(claim, Phase.CANCELLED)
    assert await store.jobs.delete("first")
    again = await store.jobs.submit("third", "owner", "t", SPEC, ttl_s=60, idempotency=once)
    assert (again.outcome, again.job_id) == (SubmitOutcome.SAME, "second")
