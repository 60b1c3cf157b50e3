"""Idempotency keys: one request, one job, however often it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError
from serve_app.jobs.quotas import TenantLimits
from serve_app.models.job import Job, JobSpec, Phase
from serve_app.models.principal import Principal
from serve_app.store.redis_store import Store
from serve_app.store.scripts import PREFIX
from tests.lib.app import ME, QUEUE_LIMIT, App

SPEC = JobSpec("fake")


async def send(
    app: App, key: str | None, spec: JobSpec = SPEC, audio: bytes = b"audio", sha256: str = "1", principal: Principal = ME
) -> Job:
    """Submit as a route does."""
    async with app.jobs.draft(principal, key) as draft:
        app.artifacts.put(draft.source, audio)
        return await draft.submit(spec, sha256)


def stored(artifacts: Artifacts) -> set[str]:
    return {folder.rpartition("/")[2] for folder in artifacts.folders("jobs")}


async def test_the_same_request_is_the_same_job_and_leaves_no_second_upload(app: App, artifacts: Artifacts) -> None:
    first = await send(app, "k")
    again = await send(app, "k")
    assert again.id == first.id
    assert stored(artifacts) == {first.id}
    await app.ended(first.id)
    assert (await send(app, "k")).id == first.id
    assert len((await app.jobs.page(ME, limit=10, cursor=None))[0]) == 1


@pytest.mark.parametrize("change", ["spec", "bytes"])
async def test_another_request_with_the_key_is_refused(app: App, artifacts: Artifacts, change: str) -> None:
    first = await send(app, "k")
    with pytest.raises(RequestError) as refused:
        await send(
            app, "k", replace(SPEC, prompt="x") if change == "spec" else SPEC, sha256="2" if change == "bytes" else "1"
        )
    assert (refused.value.code, refused.value.status) == ("key_reused", 422)
    assert stored(artifacts) == {first.id}


async def test_a_second_request_during_the_first_is_refused(app: App) -> None:
    async with app.jobs.draft(ME, "k") as draft:
        with pytest.raises(RequestError) as refused:
            await send(app, "k")
        assert (refused.value.status, refused.value.retry_after_s) == (409, 1)
        job = await draft.submit(SPEC)
    assert (await send(app, "k", sha256="")).id == job.id


async def test_a_request_that_fails_releases_its_key(app: App) -> None:
    with pytest.raises(RequestError):
        await send(app, "k", JobSpec("no such model"))
    assert (await send(app, "k")).id


async def test_keys_belong_to_their_caller_and_are_optional(app: App) -> None:
    mine = await send(app, "k")
    theirs = await send(app, "k", principal=Principal("they", "t"))
    others = await send(app, "k", principal=Principal("me", "another"))
    assert len({mine.id, theirs.id, others.id}) == 3
    assert (await send(app, None)).id != (await send(app, None)).id


async def test_a_key_is_deleted_with_its_job(app: App) -> None:
    job = await send(app, "k")
    await app.ended(job.id)
    await app.jobs.delete(ME, job.id)
    assert (await send(app, "k")).id != job.id


async def test_concurrent_equal_requests_make_one_job(app: App) -> None:
    sent = await asyncio.gather(*(send(app, "k") for _ in range(20)), return_exceptions=True)
    made = {job.id for job in sent if isinstance(job, Job)}
    assert len(made) == 1
    assert all(error.code == "conflict" for error in sent if isinstance(error, RequestError))
    assert not [error for error in sent if isinstance(error, BaseException) and not isinstance(error, RequestError)]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb"])
async def test_a_malformed_key_is_refused(app: App, key: str) -> None:
    with pytest.raises(RequestError) as refused:
        await send(app, key)
    assert refused.value.status == 400


async def test_a_client_that_disconnects_during_a_submit_leaves_no_orphan(app: App, artifacts: Artifacts) -> None:
    for pause in range(12):
        sending = asyncio.create_task(send(app, f"k{pause}"))
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
    jobs, _ = await app.jobs.page(ME, limit=100, cursor=None)
    assert stored(artifacts) == {job.id for job in jobs}


async def test_a_client_that_disconnects_at_any_moment_can_retry_at_once(app: App) -> None:
    for pause in range(40):
        sending = asyncio.create_task(send(app, f"k{pause}"))
        for _ in range(pause):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        assert (await send(app, f"k{pause}")).id
    assert len((await app.jobs.page(ME, limit=100, cursor=None))[0]) == 40


async def test_the_key_of_a_job_that_is_being_deleted_makes_a_new_job(app: App) -> None:
    first = await send(app, "k", audio=b"no audio")
    await app.jobs.delete_when_ended(ME, first.id)
    assert (await send(app, "k", audio=b"no audio")).id != first.id


async def test_the_key_of_a_job_that_vanishes_meanwhile_is_a_conflict(app: App, store: Store) -> None:
    first = await send(app, "k", audio=b"no audio")
    await app.ended(first.id)
    await store._redis.delete(f"{PREFIX}job:{first.id}")  # the key stays, as if the delete came in between
    with pytest.raises(RequestError) as refused:
        await send(app, "k", audio=b"no audio")
    assert (refused.value.code, refused.value.retry_after_s) == ("conflict", 1)


async def test_a_cancelled_job_is_retried_where_its_api_allows_it(app: App) -> None:
    await app.runner.stop()
    job = await send(app, None)
    await app.jobs.cancel(ME, job.id)
    with pytest.raises(RequestError, match="it is cancelled"):
        await app.jobs.retry(ME, job.id)
    again = await app.jobs.retry(ME, job.id, (Phase.FAILED, Phase.CANCELLED))
    assert again.phase is Phase.QUEUED


async def test_a_retry_is_refused_while_the_queue_is_full(app: App) -> None:
    await app.runner.stop()
    job = await send(app, None)
    await app.jobs.cancel(ME, job.id)
    for _ in range(QUEUE_LIMIT):
        await send(app, None)
    with pytest.raises(RequestError) as refused:
        await app.jobs.retry(ME, job.id, (Phase.CANCELLED,))
    assert (refused.value.status, refused.value.code) == (429, "rate_limited")


async def test_minutes_reserved_by_jobs_under_way_are_offered_again_soon(app: App) -> None:
    await app.runner.stop()
    app.jobs._quotas._limits = TenantLimits(minutes_per_month=1)
    job = await send(app, None)
    with pytest.raises(RequestError) as refused:
        await send(app, None)
    assert (refused.value.code, refused.value.retry_after_s) == ("quota_exceeded", 60)
    await app.jobs.cancel(ME, job.id)
    await send(app, None)
