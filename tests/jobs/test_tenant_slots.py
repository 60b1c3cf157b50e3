"""Open requests of a tenant are bounded, and each slot is released once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from serve_app.errors import RequestError
from serve_app.jobs.tenant_slots import RETRY_S, Slotted, TenantSlots
from tests.lib.app import ME, App


async def numbers(count: int) -> AsyncGenerator[int, None]:
    for number in range(count):
        yield number
    if count > 2:
        await asyncio.Event().wait()


@pytest.fixture
def slots() -> TenantSlots:
    return TenantSlots(1, "event streams")


def full(slots: TenantSlots, tenant: str = "t") -> bool:
    """Whether a tenant has no slot left."""
    try:
        slots.take(tenant).release()
    except RequestError as error:
        return (error.status, error.retry_after_s) == (429, RETRY_S)
    return False


def test_a_tenant_takes_no_more_than_its_slots(slots: TenantSlots) -> None:
    slot = slots.take("t")
    assert full(slots)
    assert not full(slots, "other")
    slot.release()
    slot.release()
    with slots.take("t"):
        assert full(slots)
    assert not full(slots)


def test_without_a_limit_there_is_none() -> None:
    slots = TenantSlots(0, "uploads")
    assert len([slots.take("t") for _ in range(100)]) == 100


def test_a_slot_that_is_kept_is_released_by_an_error_only(slots: TenantSlots) -> None:
    slot = slots.take("t")
    with pytest.raises(ZeroDivisionError), slot.kept():
        raise ZeroDivisionError
    assert not full(slots)
    slot = slots.take("t")
    with slot.kept():
        pass
    assert full(slots)


async def test_a_stream_holds_its_slot_to_its_end(slots: TenantSlots) -> None:
    stream = Slotted(numbers(2), slots.take("t"))
    assert await anext(stream) == 0
    assert full(slots)
    assert [number async for number in stream] == [1]
    assert not full(slots)


async def test_a_stream_that_is_closed_or_cancelled_releases_its_slot(slots: TenantSlots) -> None:
    async with aclosing(Slotted(numbers(3), slots.take("t"))) as stream:
        assert await anext(stream) == 0
    assert not full(slots)
    stream = Slotted(numbers(3), slots.take("t"))
    for _ in range(3):
        await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    assert full(slots)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not full(slots)


async def test_a_stream_that_never_starts_releases_its_slot(slots: TenantSlots) -> None:
    stream: Slotted[int] | None = Slotted(numbers(2), slots.take("t"))
    assert stream
    await stream.aclose()
    assert not full(slots)
    stream = Slotted(numbers(2), slots.take("t"))
    assert full(slots)
    stream = None
    assert not full(slots)


async def test_followers_of_one_tenant_leave_room_for_others(app: App) -> None:
    app.jobs._streams = TenantSlots(2, "event streams")
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(b"no sound")
    streams = [await app.jobs.follow(ME, job_id, "0") for _ in range(2)]
    with pytest.raises(RequestError, match="open event streams"):
        await app.jobs.resume(ME, job_id, "0")
    assert not full(app.jobs.for_dialect("native", "{}")._streams, "other")
    for stream in streams:
        await stream.aclose()
    assert await app.follow(job_id)


async def test_submissions_under_way_are_bounded_too(app: App) -> None:
    app.jobs._submissions = TenantSlots(1, "uploads")
    async with app.jobs.draft(ME):
        with pytest.raises(RequestError, match="open uploads"):
            await app.submit(b"sound")
    assert await app.submit(b"sound")
