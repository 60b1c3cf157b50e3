"""Redis' memory a job, in bounds of about twice what was measured (docs/operations.md has the figures)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from serve_app.local.valkey import Valkey
from serve_app.models.event import Progress
from serve_app.models.job import JobSpec, Phase
from serve_app.models.lease import Commit
from serve_app.store.redis_store import Store

SPEC = JobSpec("base", url="https://example.com/recordings/2026/interview-0001.mp3", language="en")
JOBS = 300
WINDOWS_A_DAY = 86_400 // 20
WINDOWS = WINDOWS_A_DAY // 10  # measured; a stream grows evenly
SEGMENTS = 4  # a window
TEXT = "and then we went on to the next point, which had been raised before"


@pytest.fixture
async def raw(valkey: Valkey, store: Store) -> AsyncIterator[Any]:
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        yield redis


async def used(raw: Any) -> int:
    """Bytes of Redis' data."""
    return int((await raw.info("memory"))["used_memory"])


def segment(number: int, *, words: bool) -> str:
    """A segment as the pipeline commits it."""
    start = number * 5.0
    spans = [
        {"text": f" {word}", "start": start + i * 0.3, "end": start + i * 0.3 + 0.28, "confidence": 0.93}
        for i, word in enumerate(TEXT.split())
    ]
    fields = {"id": number, "start": start, "end": start + 4.9, "text": TEXT, "confidence": 0.93, "language": "en"}
    return orjson.dumps(fields | ({"words": spans} if words else {})).decode()


async def test_a_queued_job_is_small(store: Store, raw: Any) -> None:
    before = await used(raw)
    for number in range(JOBS):
        await store.jobs.submit(f"{number:032x}", "me", "t", SPEC, ttl_s=60)
    each = (await used(raw) - before) / JOBS
    assert each < 14_000


async def test_an_ended_job_is_small_and_smaller_without_its_stream(store: Store, raw: Any) -> None:
    before = await used(raw)
    for number in range(JOBS):
        await store.jobs.submit(f"{number:032x}", "me", "t", SPEC, ttl_s=3600)
        claim = await store.leases.claim("worker")
        assert claim
        commit = Commit(0, (segment(0, words=False),), 5.0, "en", "cpu", Progress(5.0, 5.0, 1, None, None))
        await store.leases.commit(claim, commit)
        await store.leases.finish(claim, Phase.COMPLETED)
    kept = (await used(raw) - before) / JOBS
    while await store.upkeep.drop_old_streams(0.0):
        pass
    await store.upkeep.drop_audio(0.0)
    dropped = (await used(raw) - before) / JOBS
    assert kept < 14_000
    assert dropped < 7_000


@pytest.mark.parametrize(("words", "most"), [(False, 6_500_000), (True, 40_000_000)])
async def test_the_stream_of_a_days_recording_is_bounded(store: Store, raw: Any, words: bool, most: int) -> None:
    await store.jobs.submit("a" * 32, "me", "t", SPEC, ttl_s=60)
    claim = await store.leases.claim("worker")
    assert claim
    before = await used(raw)
    for window in range(WINDOWS):
        segments = tuple(segment(window * SEGMENTS + i, words=words) for i in range(SEGMENTS))
        progress = Progress(window * 20.0, 86_400.0, window + 1, None, 100.0)
        await store.leases.commit(claim, Commit(window, segments, window * 20.0, "en", "cpu", progress))
    day = (await used(raw) - before) * WINDOWS_A_DAY / WINDOWS
    assert day < most
