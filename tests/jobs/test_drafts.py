"""Idempotency keys: one request, one job, however often it is sent."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs.models import Job, JobSpec, Principal
from tests.house import ME, House

SPEC = JobSpec("fake")


async def send(
    house: House, key: str | None, spec: JobSpec = SPEC, audio: bytes = b"audio", sha256: str = "1", who: Principal = ME
) -> Job:
    """As a route does."""
    async with house.jobs.draft(who, key) as draft:
        house.artifacts.put(draft.source, audio)
        return await house.jobs.submit(who, spec, draft, sha256)


def stored(artifacts: Artifacts) -> set[str]:
    return {folder.rpartition("/")[2] for folder in artifacts.folders("jobs")}


async def test_the_same_request_is_the_same_job_and_leaves_no_second_upload(house: House, artifacts: Artifacts) -> None:
    first = await send(house, "k")
    again = await send(house, "k")
    assert again.id == first.id
    assert stored(artifacts) == {first.id}
    await house.ended(first.id)
    assert (await send(house, "k")).id == first.id
    assert len((await house.jobs.page(ME, limit=10, cursor=None))[0]) == 1


@pytest.mark.parametrize("change", ["spec", "bytes"])
async def test_another_request_with_the_key_is_refused(house: House, artifacts: Artifacts, change: str) -> None:
    first = await send(house, "k")
    with pytest.raises(EdgeError) as refused:
        await send(
            house, "k", replace(SPEC, prompt="x") if change == "spec" else SPEC, sha256="2" if change == "bytes" else "1"
        )
    assert (refused.value.code, refused.value.status) == ("key_reused", 422)
    assert stored(artifacts) == {first.id}


async def test_a_request_under_way_keeps_others_out(house: House) -> None:
    async with house.jobs.draft(ME, "k") as draft:
        with pytest.raises(EdgeError) as refused:
            await send(house, "k")
        assert (refused.value.status, refused.value.retry_after_s) == (409, 1)
        job = await house.jobs.submit(ME, SPEC, draft)
    assert (await send(house, "k", sha256="")).id == job.id


async def test_a_request_that_fails_gives_its_key_back(house: House) -> None:
    with pytest.raises(EdgeError):
        await send(house, "k", JobSpec("no such model"))
    assert (await send(house, "k")).id


async def test_keys_are_the_callers_own_and_none_is_no_key(house: House) -> None:
    mine = await send(house, "k")
    theirs = await send(house, "k", who=Principal("they", "t"))
    others = await send(house, "k", who=Principal("me", "another"))
    assert len({mine.id, theirs.id, others.id}) == 3
    assert (await send(house, None)).id != (await send(house, None)).id


async def test_a_key_goes_with_its_job(house: House) -> None:
    job = await send(house, "k")
    await house.ended(job.id)
    await house.jobs.purge(ME, job.id)
    assert (await send(house, "k")).id != job.id


async def test_many_at_once_make_one_job(house: House) -> None:
    sent = await asyncio.gather(*(send(house, "k") for _ in range(20)), return_exceptions=True)
    made = {job.id for job in sent if isinstance(job, Job)}
    assert len(made) == 1
    assert all(error.code == "conflict" for error in sent if isinstance(error, EdgeError))
    assert not [error for error in sent if isinstance(error, BaseException) and not isinstance(error, EdgeError)]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\nb"])
async def test_a_key_that_is_none_is_refused(house: House, key: str) -> None:
    with pytest.raises(EdgeError) as refused:
        await send(house, key)
    assert refused.value.status == 400


async def test_a_sender_that_is_cut_off_while_the_job_is_made_loses_nothing(house: House, artifacts: Artifacts) -> None:
    for pause in range(12):
        sending = asyncio.create_task(send(house, f"k{pause}"))
        for _ in range(pause * 3):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
    jobs, _ = await house.jobs.page(ME, limit=100, cursor=None)
    assert stored(artifacts) == {job.id for job in jobs}


async def test_a_sender_that_is_cut_off_at_any_moment_can_send_it_again_at_once(house: House) -> None:
    for pause in range(40):
        sending = asyncio.create_task(send(house, f"k{pause}"))
        for _ in range(pause):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        assert (await send(house, f"k{pause}")).id
    assert len((await house.jobs.page(ME, limit=100, cursor=None))[0]) == 40
