"""Event streams: from any position, by many readers, each event once and in order, also after Redis dropped them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NoReturn

import orjson
import pytest

from deployments.storage.artifacts import Artifacts
from serve_app.errors import RequestError, StoreUnavailable
from serve_app.jobs import stream_tail
from serve_app.jobs.event_stream import READS, EventStreams
from serve_app.local.valkey import Valkey
from serve_app.models.event import Event, EventKind
from serve_app.models.job import JobError, JobSpec, Phase
from serve_app.store import event_log
from serve_app.store.connection import connect
from serve_app.store.event_log import EventLog
from serve_app.store.redis_store import Store
from tests.lib.app import ME, App

MANY_WINDOWS = JobSpec("fake", segment_duration=6.0)


async def test_a_stream_has_phases_segments_progress_and_the_end_in_order(app: App, sample: Path) -> None:
    events = await app.follow(await app.submit(sample, MANY_WINDOWS))
    phases = [orjson.loads(e.data)["phase"] for e in events if e.kind is EventKind.PHASE]
    assert phases == ["queued", "downloading", "transcoding", "transcribing", "completed"]
    assert events[-1].kind is EventKind.DONE
    ids = [orjson.loads(e.data)["id"] for e in events if e.kind is EventKind.SEGMENT]
    assert ids == list(range(len(ids)))
    assert len(ids) > 5
    done = [orjson.loads(e.data)["audio_done_s"] for e in events if e.kind is EventKind.PROGRESS]
    assert done == sorted(done)


async def test_a_second_reader_and_a_late_one_see_the_same(app: App, sample: Path) -> None:
    job_id = await app.submit(sample, MANY_WINDOWS)
    first, second = await asyncio.gather(app.follow(job_id), app.follow(job_id))
    assert first == second == await app.follow(job_id)


async def test_a_reader_resumes_after_any_event(app: App, sample: Path) -> None:
    events = await app.follow(job_id := await app.submit(sample, MANY_WINDOWS))
    for index, event in enumerate(events):
        assert await app.follow(job_id, event.id) == events[index + 1 :]


async def test_a_reader_that_left_resumes_while_the_job_runs(app: App, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(2)
    job_id = await app.submit(sample, MANY_WINDOWS)
    seen = await app.until(job_id, EventKind.SEGMENT, 2)
    rest = asyncio.create_task(app.follow(job_id, seen[-1].id))
    for _ in range(100):
        app.stages.gate.release()
    assert seen + await rest == await app.follow(job_id)


async def test_a_deleted_stream_is_replayed_from_the_transcript(app: App, sample: Path) -> None:
    events = await app.follow(job_id := await app.submit(sample, MANY_WINDOWS))
    await app.store.upkeep.drop_old_streams(0.0)
    assert not await app.store.events.exists(job_id)
    replayed = [e for e in events if e.kind in (EventKind.SEGMENT, EventKind.DONE)]
    assert await app.follow(job_id) == replayed
    middle = replayed[len(replayed) // 2]
    assert await app.follow(job_id, middle.id) == replayed[len(replayed) // 2 + 1 :]


async def test_a_reader_of_a_deleted_job_ends(app: App, sample: Path) -> None:
    await app.ended(job_id := await app.submit(sample))
    await app.jobs.delete(ME, job_id)
    assert [e async for e in app.events.follow(job_id)] == []
    with pytest.raises(RequestError, match="no such job"):
        await app.follow(job_id)


async def test_a_waiting_reader_sees_a_cancel(app: App, sample: Path) -> None:
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(sample)
    reading = asyncio.create_task(app.follow(job_id))
    await app.until_phase(job_id, Phase.TRANSCRIBING)
    await app.jobs.cancel(ME, job_id)
    assert orjson.loads((await reading)[-1].data)["phase"] == "cancelled"


class CountingLog(EventLog):
    """Event log that counts reads; with a `gate`, a read sets `requested` and waits there."""

    reads = 0
    at_once = most_at_once = 0
    gate: asyncio.Event | None = None
    requested: asyncio.Event | None = None

    async def read(self, job_id: str, after: str = "0", limit: int = 500) -> list[Event]:
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate and self.requested:
                self.requested.set()
                await self.gate.wait()
            return await super().read(job_id, after, limit)
        finally:
            self.at_once -= 1


@pytest.fixture
async def counting(valkey: Valkey, artifacts: Artifacts) -> AsyncIterator[tuple[CountingLog, EventStreams]]:
    """Streams as in another process, and their log."""
    redis = connect(valkey.url)
    store = Store(redis)
    store.events = log = CountingLog(redis)
    events = EventStreams(store, artifacts)
    await events.start()
    yield log, events
    await events.stop()
    await store.close()


async def to_the_end(events: EventStreams, job_id: str, after: str = "0") -> list[Event]:
    """Events of a stream up to its end."""
    return [event async for event in events.follow(job_id, after)]


async def test_readers_of_one_job_share_their_reads(
    app: App, sample: Path, counting: tuple[CountingLog, EventStreams]
) -> None:
    log, events = counting
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(sample, MANY_WINDOWS)
    readers = [asyncio.create_task(to_the_end(events, job_id)) for _ in range(300)]
    await app.until_phase(job_id, Phase.TRANSCRIBING)
    for _ in range(100):
        app.stages.gate.release()
    streams = await asyncio.gather(*readers)
    assert all(stream == streams[0] for stream in streams)
    assert streams[0] == await app.follow(job_id)
    # Each event wakes all readers once, which costs two reads at most.
    assert log.reads <= 2 * len(streams[0]) + 2


async def test_readers_far_behind_read_a_few_at_a_time(
    app: App, sample: Path, counting: tuple[CountingLog, EventStreams], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, events = counting
    monkeypatch.setattr(stream_tail, "PAGE", 3)
    monkeypatch.setattr(stream_tail, "RETAINED", 4)
    expected = await app.follow(job_id := await app.submit(sample, MANY_WINDOWS))
    positions = [e.id for e in expected[:-1]]
    streams = await asyncio.gather(*(to_the_end(events, job_id, position) for position in positions))
    assert streams == [expected[number + 1 :] for number in range(len(positions))]
    assert log.most_at_once <= READS


async def test_a_reader_that_falls_behind_while_others_go_on_misses_nothing(
    app: App, sample: Path, counting: tuple[CountingLog, EventStreams], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, events = counting
    monkeypatch.setattr(stream_tail, "RETAINED", 2)
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(sample, MANY_WINDOWS)
    slow = events.follow(job_id)
    seen = [await anext(slow)]
    others = [asyncio.create_task(to_the_end(events, job_id)) for _ in range(3)]
    for _ in range(100):
        app.stages.gate.release()
    streams = await asyncio.gather(*others)
    seen += [event async for event in slow]
    assert streams == [seen] * 3 == [await app.follow(job_id)] * 3


async def test_a_reader_that_leaves_while_it_reads_for_all_is_replaced(
    app: App, sample: Path, counting: tuple[CountingLog, EventStreams]
) -> None:
    log, events = counting
    expected = await app.follow(job_id := await app.submit(sample))
    log.gate, log.requested = asyncio.Event(), asyncio.Event()
    readers = [asyncio.create_task(to_the_end(events, job_id)) for _ in range(3)]
    await log.requested.wait()
    readers[0].cancel()
    log.gate.set()
    assert await asyncio.gather(*readers[1:]) == [expected, expected]


async def test_a_reader_that_starts_after_a_future_event_disturbs_no_other(
    app: App, sample: Path, counting: tuple[CountingLog, EventStreams]
) -> None:
    _, events = counting
    app.stages.gate = asyncio.Semaphore(0)
    job_id = await app.submit(sample, MANY_WINDOWS)
    early = asyncio.create_task(to_the_end(events, job_id, "9999999999999-0"))
    await app.until_phase(job_id, Phase.TRANSCRIBING)
    others = [asyncio.create_task(to_the_end(events, job_id)) for _ in range(3)]
    for _ in range(100):
        app.stages.gate.release()
    streams = await asyncio.gather(*others)
    assert streams == [await app.follow(job_id)] * 3
    assert await early == []


async def test_a_retried_job_is_followed_to_its_new_end(store: Store, counting: tuple[CountingLog, EventStreams]) -> None:
    _, events = counting
    await store.jobs.submit("j", "me", "t", JobSpec("fake"), ttl_s=60)
    await fail(store)
    slow = events.follow("j")
    assert (await anext(slow)).kind is EventKind.PHASE
    assert await store.jobs.retry("j")
    fresh = asyncio.create_task(to_the_end(events, "j"))
    assert [e.kind async for e in slow][-1] is EventKind.DONE
    await fail(store)
    events_of_retry = await fresh
    assert [e.kind for e in events_of_retry].count(EventKind.DONE) == 1
    assert events_of_retry == await store.events.read("j")


async def fail(store: Store) -> None:
    """Claim the only job and fail it."""
    claim = await store.leases.claim("worker")
    assert claim
    assert await store.leases.finish(claim, Phase.FAILED, JobError("engine_failed", "It failed."))


async def test_a_listener_can_be_stopped_at_any_moment(store: Store, artifacts: Artifacts) -> None:
    """A cancel that arrived while a command was sent was lost once, and the listener ran for ever."""
    for moment in range(40):
        events = EventStreams(store, artifacts)
        await events.start()
        for _ in range(moment):
            await asyncio.sleep(0)
        await events.stop()


async def test_streams_are_healthy_while_redis_is_away_and_not_without_their_listener(
    store: Store, artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: asyncio.Queue[Exception] = asyncio.Queue()
    for error in (StoreUnavailable("away"), StoreUnavailable("still away"), ZeroDivisionError("a mistake")):
        attempts.put_nowait(error)
    second = asyncio.Event()

    def subscribe(*_: object) -> NoReturn:
        error = attempts.get_nowait()
        if not attempts.qsize():
            second.set()
        raise error

    monkeypatch.setattr(event_log, "RECONNECT_S", 0.01)
    monkeypatch.setattr(EventLog, "subscribe", subscribe)
    streams = EventStreams(store, artifacts)
    assert streams.healthy
    await streams.start()
    while attempts.qsize() > 1:
        assert streams.healthy
        await asyncio.sleep(0)
    assert streams.healthy
    await second.wait()
    await asyncio.sleep(0)
    assert not streams.healthy
    for task in streams._background:
        task.cancel()
