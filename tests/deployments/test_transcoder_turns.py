"""Turns of tenants at the Transcoder's CPU: a clip beside many long recordings, and sources that stall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE
from deployments.messages import TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.transcoding import stage
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.fair_turns import FairTurns
from deployments.transcoding.stage import CHUNK_SAMPLES, Transcoder
from tests.lib.media import decode_at_once, wav
from tests.lib.poll import until

pytestmark = pytest.mark.usefixtures("memoized_vad")

LONG = TranscodeRequest("source/long", "", 28.0, 3600.0, tenant="a")
CLIP_S = 10
LIMIT = 2


class LoggedTurns(FairTurns):
    """Turns with a log of waits and grants."""

    def __init__(self) -> None:
        super().__init__(LIMIT)
        self.log: list[tuple[str, str]] = []
        self.held = 0

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        self.log.append(("wait", tenant))
        async with super().turn(tenant):
            self.log.append(("turn", tenant))
            self.held += 1
            try:
                yield
            finally:
                self.held -= 1


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> LoggedTurns:
    """Turns of all Transcoders of a test."""
    turns = LoggedTurns()
    monkeypatch.setattr(stage, "FairTurns", lambda _: turns)
    return turns


@pytest.fixture(scope="module")
def pcm(ffmpeg: str, sample: Path) -> bytes:
    """The sample recording for three minutes."""
    return (decode_at_once(ffmpeg, sample) * 4)[: 2 * 180 * SAMPLE_RATE]


async def drain(transcoder: Transcoder, request: TranscodeRequest) -> float:
    """Read to the end; seconds decoded."""
    return [message.decoded_s async for message in transcoder.windows(request)][-1]


async def test_a_clip_waits_for_a_bounded_number_of_another_tenants_chunks(
    artifacts: Artifacts, ffmpeg: str, pcm: bytes, turns: LoggedTurns
) -> None:
    artifacts.put("source/long", wav(pcm))
    artifacts.put("source/clip", wav(pcm[: 2 * CLIP_S * SAMPLE_RATE]))
    transcoder = Transcoder(artifacts, ffmpeg)
    long = [asyncio.create_task(drain(transcoder, replace(LONG, pcm_prefix=f"long{i}"))) for i in range(8)]
    await until(lambda: turns.log.count(("turn", "a")) >= 16)
    clip = replace(LONG, source_key="source/clip", pcm_prefix="clip", tenant="b")
    assert await drain(transcoder, clip) == CLIP_S
    assert not any(task.done() for task in long)
    for task in long:
        task.cancel()
    await asyncio.wait(long)
    chunks = CLIP_S * SAMPLE_RATE // CHUNK_SAMPLES + 1  # the last is empty
    waits = [place for place, entry in enumerate(turns.log) if entry == ("wait", "b")]
    grants = [place for place, entry in enumerate(turns.log) if entry == ("turn", "b")]
    assert (len(waits), len(grants)) == (chunks, chunks)
    for wait, grant in zip(waits, grants, strict=True):
        # Those granted before it waits may run only then, and one more for each that ends.
        assert turns.log[wait:grant].count(("turn", "a")) <= 2 * LIMIT
    assert turns.held == 0


async def test_no_turn_is_held_while_the_consumer_takes_its_time(
    artifacts: Artifacts, ffmpeg: str, pcm: bytes, turns: LoggedTurns
) -> None:
    artifacts.put("source/long", wav(pcm))
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(replace(LONG, pcm_prefix="long"))) as messages:
        async for _ in messages:
            assert turns.held == 0


async def test_sources_that_stall_keep_no_turn(
    artifacts: Artifacts, ffmpeg: str, pcm: bytes, turns: LoggedTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.put("source/long", wav(pcm))
    plain, stalled, go_on = Decoder.read, asyncio.Semaphore(0), asyncio.Event()
    stalling = iter([True] * LIMIT)

    async def read(decoder: Decoder, samples: int) -> bytes:
        if next(stalling, False):
            stalled.release()
            await go_on.wait()
        return await plain(decoder, samples)

    monkeypatch.setattr(Decoder, "read", read)
    monkeypatch.setattr(stage, "TURN_S", 0.05)
    transcoder = Transcoder(artifacts, ffmpeg)
    slow = [asyncio.create_task(drain(transcoder, replace(LONG, pcm_prefix=f"slow{i}"))) for i in range(LIMIT)]
    for _ in range(LIMIT):
        await stalled.acquire()
    monkeypatch.setattr(stage, "TURN_S", 60.0)
    assert await drain(transcoder, replace(LONG, pcm_prefix="other")) == 180.0
    assert not any(task.done() for task in slow)
    go_on.set()
    assert await asyncio.gather(*slow) == [180.0, 180.0]
    assert artifacts.read("slow0/00002.s16le") == artifacts.read("other/00002.s16le")
    assert turns.held == 0


async def test_a_stream_that_is_cancelled_in_its_turn_or_before_loses_no_turn(
    artifacts: Artifacts, ffmpeg: str, pcm: bytes, turns: LoggedTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts.put("source/long", wav(pcm))
    plain, reading = Decoder.read, asyncio.Semaphore(0)

    async def hang(decoder: Decoder, samples: int) -> bytes:
        reading.release()
        await asyncio.sleep(3600)
        return b""

    monkeypatch.setattr(Decoder, "read", hang)
    transcoder = Transcoder(artifacts, ffmpeg)
    tasks = [asyncio.create_task(drain(transcoder, replace(LONG, pcm_prefix=f"long{i}"))) for i in range(4)]
    for _ in range(LIMIT):
        await reading.acquire()
    await until(lambda: turns.log.count(("wait", "a")) == 4)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    monkeypatch.setattr(Decoder, "read", plain)
    assert await drain(transcoder, replace(LONG, pcm_prefix="other")) == 180.0
    assert turns._free == LIMIT
