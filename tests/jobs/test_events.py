"""Streams: from any place on, by many readers, each event once and in order, also when Redis no longer holds them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs import tail
from serve_app.jobs.connection import connect
from serve_app.jobs.events import READS, Events
from serve_app.jobs.models import Event, EventKind, JobError, JobSpec, Phase
from serve_app.jobs.store import Store
from serve_app.valkey import Valkey
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


class Counted(Store):
    """A store that counts how often its streams are read; with a `gate`, it sets `asked` and waits there."""

    reads = 0
    at_once = most_at_once = 0
    gate: asyncio.Event | None = None
    asked: asyncio.Event | None = None

    async def events(self, job_id: str, after: str = "0", limit: int = 500) -> list[Event]:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate and self.asked:
                self.asked.set()
                await self.gate.wait()
            return await super().events(job_id, after, limit)
        finally:
            self.at_once -= 1


@pytest.fixture
async def counted(valkey: Valkey, artifacts: Artifacts) -> AsyncIterator[tuple[Counted, Events]]:
    """Streams of a process of its own, as it were."""
    store = Counted(connect(valkey.url))
    events = Events(store, artifacts)
    await events.start()
    yield store, events
    await events.stop()
    await store.close()


async def heard(events: Events, job_id: str, after: str = "0") -> list[Event]:
    """A stream to its end."""
    return [event async for event in events.follow(job_id, after)]


async def test_readers_of_one_job_share_what_is_read(house: House, sample: Path, counted: tuple[Counted, Events]) -> None:
    store, events = counted
    house.stages.gate = asyncio.Semaphore(0)
    job_id = await house.submit(sample, MANY_WINDOWS)
    readers = [asyncio.create_task(heard(events, job_id)) for _ in range(300)]
    await house.until_phase(job_id, Phase.TRANSCRIBING)
    for _ in range(100):
        house.stages.gate.release()
    told = await asyncio.gather(*readers)
    assert all(each == told[0] for each in told)
    assert told[0] == await house.follow(job_id)
    # Each event may wake everybody once, and each waking costs two reads at most.
    assert store.reads <= 2 * len(told[0]) + 2


async def test_readers_far_behind_read_a_few_at_a_time(
    house: House, sample: Path, counted: tuple[Counted, Events], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, events = counted
    monkeypatch.setattr(tail, "PAGE", 3)
    monkeypatch.setattr(tail, "KEPT", 4)
    expected = await house.follow(job_id := await house.submit(sample, MANY_WINDOWS))
    places = [e.id for e in expected[:-1]]
    told = await asyncio.gather(*(heard(events, job_id, place) for place in places))
    assert told == [expected[number + 1 :] for number in range(len(places))]
    assert store.most_at_once <= READS


async def test_a_reader_that_falls_behind_while_others_go_on_misses_nothing(
    house: House, sample: Path, counted: tuple[Counted, Events], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, events = counted
    monkeypatch.setattr(tail, "KEPT", 2)
    house.stages.gate = asyncio.Semaphore(0)
    job_id = await house.submit(sample, MANY_WINDOWS)
    slow = events.follow(job_id)
    seen = [await anext(slow)]
    others = [asyncio.create_task(heard(events, job_id)) for _ in range(3)]
    for _ in range(100):
        house.stages.gate.release()
    told = await asyncio.gather(*others)
    seen += [event async for event in slow]
    assert told == [seen] * 3 == [await house.follow(job_id)] * 3


async def test_a_reader_that_leaves_while_it_reads_for_all_is_replaced(
    house: House, sample: Path, counted: tuple[Counted, Events]
) -> None:
    store, events = counted
    expected = await house.follow(job_id := await house.submit(sample))
    store.gate, store.asked = asyncio.Event(), asyncio.Event()
    readers = [asyncio.create_task(heard(events, job_id)) for _ in range(3)]
    await store.asked.wait()
    readers[0].cancel()
    store.gate.set()
    assert await asyncio.gather(*readers[1:]) == [expected, expected]


async def test_a_place_that_is_still_to_come_disturbs_nobody(
    house: House, sample: Path, counted: tuple[Counted, Events]
) -> None:
    _, events = counted
    house.stages.gate = asyncio.Semaphore(0)
    job_id = await house.submit(sample, MANY_WINDOWS)
    early = asyncio.create_task(heard(events, job_id, "9999999999999-0"))
    await house.until_phase(job_id, Phase.TRANSCRIBING)
    others = [asyncio.create_task(heard(events, job_id)) for _ in range(3)]
    for _ in range(100):
        house.stages.gate.release()
    told = await asyncio.gather(*others)
    assert told == [await house.follow(job_id)] * 3
    assert await early == []


async def test_a_job_tried_again_is_followed_to_its_new_end(store: Store, counted: tuple[Counted, Events]) -> None:
    _, events = counted
    await store.submit("j", "me", "t", JobSpec("fake"), ttl_s=60)
    await fail(store)
    slow = events.follow("j")
    assert (await anext(slow)).kind is EventKind.PHASE
    assert await store.retry("j")
    fresh = asyncio.create_task(heard(events, "j"))
    assert [e.kind async for e in slow][-1] is EventKind.DONE
    await fail(store)
    told = await fresh
    assert [e.kind for e in told].count(EventKind.DONE) == 1
    assert told == await store.events("j")


async def fail(store: Store) -> None:
    """Claim the one job there is, and give up on it."""
    claim = await store.claim("worker")
    assert claim
    assert await store.finish(claim, Phase.FAILED, JobError("engine_failed", "It failed."))


async def test_a_listener_can_be_stopped_at_any_moment(store: Store, artifacts: Artifacts) -> None:
    """Cancels that come while a command is sent were once lost, and the listener went on for ever."""
    for moment in range(40):
        events = Events(store, artifacts)
        await events.start()
        for _ in range(moment):
            await asyncio.sleep(0)
        await events.stop()
