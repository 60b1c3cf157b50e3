"""Streams: from any place on, by many readers, each event once and in order, also when Redis no longer holds them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs.events import Events
from serve_app.jobs.models import EventKind, JobSpec, Phase
from serve_app.jobs.store import Store
from tests.house import ME, House

MANY_WINDOWS = JobSpec("fake", segment_duration=6.0)


async def test_a_stream_tells_phases_segments_progress_and_the_end_in_order(house: House, sample: Path) -> None:
    events = await house.follow(await house.submit(sample, MANY_WINDOWS))
    phases = [orjson.loads(e.data)["phase"] for e in events if e.kind is EventKind.PHASE]
    assert phases == ["queued", "downloading", "transcoding", "transcribing", "completed"]
    assert events[-1].kind is EventKind.DONE
    ids = [orjson.loads(e.data)["id"] for e in events if e.kind is EventKind.SEGMENT]
    assert ids == list(range(len(ids)))
    assert len(ids) > 5
    done = [orjson.loads(e.data)["audio_done_s"] for e in events if e.kind is EventKind.PROGRESS]
    assert done == sorted(done)


async def test_a_second_reader_and_a_late_one_see_the_same(house: House, sample: Path) -> None:
    job_id = await house.submit(sample, MANY_WINDOWS)
    first, second = await asyncio.gather(house.follow(job_id), house.follow(job_id))
    assert first == second == await house.follow(job_id)


async def test_a_reader_resumes_after_any_event(house: House, sample: Path) -> None:
    events = await house.follow(job_id := await house.submit(sample, MANY_WINDOWS))
    for place, event in enumerate(events):
        assert await house.follow(job_id, event.id) == events[place + 1 :]


async def test_a_reader_that_left_resumes_while_the_job_runs(house: House, sample: Path) -> None:
    house.stages.gate = asyncio.Semaphore(2)
    job_id = await house.submit(sample, MANY_WINDOWS)
    seen = await house.until(job_id, EventKind.SEGMENT, 2)
    rest = asyncio.create_task(house.follow(job_id, seen[-1].id))
    for _ in range(100):
        house.stages.gate.release()
    assert seen + await rest == await house.follow(job_id)


async def test_a_stream_that_redis_dropped_is_told_from_the_transcript(house: House, sample: Path) -> None:
    events = await house.follow(job_id := await house.submit(sample, MANY_WINDOWS))
    await house.store.drop_old_streams(0.0)
    assert not await house.store.has_events(job_id)
    told = [e for e in events if e.kind in (EventKind.SEGMENT, EventKind.DONE)]
    assert await house.follow(job_id) == told
    middle = told[len(told) // 2]
    assert await house.follow(job_id, middle.id) == told[len(told) // 2 + 1 :]


async def test_a_reader_of_a_deleted_job_is_let_go(house: House, sample: Path) -> None:
    await house.ended(job_id := await house.submit(sample))
    await house.jobs.purge(ME, job_id)
    assert [e async for e in house.events.follow(job_id)] == []
    with pytest.raises(EdgeError, match="no such job"):
        await house.follow(job_id)


async def test_a_reader_that_waits_hears_of_a_cancel(house: House, sample: Path) -> None:
    house.stages.gate = asyncio.Semaphore(0)
    job_id = await house.submit(sample)
    reading = asyncio.create_task(house.follow(job_id))
    await house.until_phase(job_id, Phase.TRANSCRIBING)
    await house.jobs.cancel(ME, job_id)
    assert orjson.loads((await reading)[-1].data)["phase"] == "cancelled"


async def test_a_listener_can_be_stopped_at_any_moment(store: Store, artifacts: Artifacts) -> None:
    """Cancels that come while a command is sent were once lost, and the listener went on for ever."""
    for moment in range(40):
        events = Events(store, artifacts)
        await events.start()
        for _ in range(moment):
            await asyncio.sleep(0)
        await events.stop()
