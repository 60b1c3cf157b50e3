"""Results: lists and polls cost few requests of the storage, and transcripts are parsed once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest.mock import patch

import orjson
import pytest

from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import Artifacts
from serve_app.jobs import transcript_cache
from serve_app.jobs.results import Results
from serve_app.jobs.transcript_cache import PART_BYTES, TranscriptCache
from serve_app.jobs.transcript_file import read_transcript, write_transcript
from serve_app.models.event import Event, EventKind
from serve_app.models.job import JobSpec
from serve_app.store.redis_store import Store
from tests.lib.app import open_app
from tests.lib.s3 import SLOW_DOWN, Storage

JOBS = 12


@pytest.fixture
def reads() -> Iterator[list[str]]:
    """Keys of the transcripts that are parsed."""
    keys: list[str] = []

    def counted(artifacts: Artifacts, key: str) -> object:
        keys.append(key)
        return read_transcript(artifacts, key)

    with patch.object(transcript_cache, "read_transcript", counted):
        yield keys


async def store_transcript(artifacts: Artifacts, key: str, segments: int) -> None:
    """Write a transcript without words."""

    async def events() -> AsyncIterator[Event]:
        for n in range(segments):
            segment = {"id": n, "start": float(n), "end": n + 1.0, "text": "so it is", "confidence": 0.9, "language": "en"}
            yield Event(f"{n + 1}-0", EventKind.SEGMENT, orjson.dumps(segment).decode())

    assert await write_transcript(artifacts, key, events(), float(segments)) == "en"


async def test_a_long_transcript_is_parsed_once(artifacts: Artifacts, reads: list[str]) -> None:
    await store_transcript(artifacts, "t", 20_000)
    cache = TranscriptCache(artifacts)
    transcripts = await asyncio.gather(*(cache.get("t") for _ in range(5)))
    assert len(transcripts[0].segments) == 20_000
    assert all(transcript is transcripts[0] for transcript in (*transcripts, await cache.get("t")))
    assert reads == ["t"]


async def test_the_least_recently_read_transcripts_leave_first(artifacts: Artifacts, reads: list[str]) -> None:
    for key in "abc":
        await store_transcript(artifacts, key, 10)
    await store_transcript(artifacts, "long", 21)
    cache = TranscriptCache(artifacts, max_bytes=20 * PART_BYTES)
    for key in ("a", "b", "a", "c", "a", "b", "long", "long", "a"):
        await cache.get(key)
    assert reads == ["a", "b", "c", "b", "long", "long"]


async def test_a_reader_that_leaves_stops_no_other(artifacts: Artifacts, reads: list[str]) -> None:
    await store_transcript(artifacts, "t", 2000)
    cache = TranscriptCache(artifacts)
    first = asyncio.create_task(cache.get("t"))
    second = asyncio.create_task(cache.get("t"))
    await asyncio.sleep(0)
    first.cancel()
    assert len((await second).segments) == 2000
    assert reads == ["t"]


async def test_a_transcript_that_could_not_be_read_is_read_again(artifacts: Artifacts) -> None:
    cache = TranscriptCache(artifacts)
    with pytest.raises(FileNotFoundError):
        await cache.get("t")
    await store_transcript(artifacts, "t", 1)
    assert len((await cache.get("t")).segments) == 1


async def test_a_page_of_jobs_asks_for_each_size_once(store: Store, s3: Storage, ffmpeg: str, sample: Path) -> None:
    s3.reset()
    content = await asyncio.to_thread(sample.read_bytes)
    async with open_app(store, s3.artifacts(), ffmpeg) as app:
        jobs = [await app.ended(job_id) for job_id in [await app.submit(content, JobSpec("fake")) for _ in range(JOBS)]]
        results = Results(app.artifacts)
        s3.reset()
        pages = [await asyncio.gather(*(results.files(job) for job in jobs)) for _ in range(5)]
        assert len(s3.requests) == 2 * JOBS
        assert all(page == pages[0] for page in pages)
        assert {file.name for file in pages[0][0]} == {"source", "transcript.jsonl", "audio.wav"}


async def test_sizes_are_asked_for_at_the_same_time(store: Store, s3: Storage, ffmpeg: str, sample: Path) -> None:
    s3.reset()
    async with open_app(store, s3.artifacts(), ffmpeg) as app:
        job = await app.ended(await app.submit(sample))
        results = Results(app.artifacts)
        busy = most = 0
        size = app.artifacts.size
        gate = asyncio.Event()
        loop = asyncio.get_running_loop()

        def gated(key: str) -> int | None:
            nonlocal busy, most
            busy += 1
            most = max(most, busy)
            if busy == 2:
                loop.call_soon_threadsafe(gate.set)
            asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()
            return size(key)

        with patch.object(app.artifacts, "size", gated):
            assert len(await results.files(job)) == 3
        assert most == 2


async def test_a_list_is_refused_as_unavailable_while_storage_is_away(
    store: Store, s3: Storage, ffmpeg: str, sample: Path
) -> None:
    s3.reset()
    async with open_app(store, s3.artifacts(), ffmpeg) as app:
        job = await app.ended(await app.submit(sample))
        s3.trouble = lambda _: SLOW_DOWN
        with pytest.raises(StorageUnavailable):
            await Results(app.artifacts).files(job)
        s3.reset()
