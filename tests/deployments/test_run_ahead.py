"""Bounded run-ahead: a decode pauses where it is too far ahead of what is committed, and goes on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from batching.types import SAMPLE_RATE, Window
from deployments.errors import StageUnavailable, StorageUnavailable
from deployments.health import Stalled
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.committed_place import CommittedPlace
from deployments.storage.writer import PARTS
from deployments.transcoding import run_ahead
from deployments.transcoding.stage import CHUNK_SAMPLES, Transcoder
from tests.lib.media import children, decode_at_once, side_by_side, wav

pytestmark = pytest.mark.usefixtures("memoized_vad")

AHEAD_S, CHUNK_S = 100.0, CHUNK_SAMPLES / SAMPLE_RATE
KEY = "pcm/committed.7"
FREE = TranscodeRequest("source/it", "free", 12.0, 3600.0)
BOUND = replace(FREE, pcm_prefix="pcm", ahead_s=AHEAD_S, progress_key=KEY)


@pytest.fixture(scope="module")
def pcm(ffmpeg: str, sample: Path) -> bytes:
    """The sample recording for six minutes."""
    return (decode_at_once(ffmpeg, sample) * 7)[: 2 * 360 * SAMPLE_RATE]


@pytest.fixture
def source(artifacts: Artifacts, pcm: bytes) -> Artifacts:
    """Storage with six minutes of speech."""
    artifacts.put("source/it", wav(pcm))
    return artifacts


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "LONGEST_POLL_S", "MESSAGE_S"):
        monkeypatch.setattr(run_ahead, name, 0.02)


def is_pause(message: TranscodeProgress, before: TranscodeProgress | None) -> bool:
    """Whether a message reports a pause: nothing was decoded since the one before."""
    return before is not None and message.decoded_s == before.decoded_s and not (message.windows or message.finished)


async def up_to_pauses(messages: AsyncGenerator[TranscodeProgress, None], pauses: int = 1) -> list[TranscodeProgress]:
    """Read until the stream has reported so many pauses."""
    seen: list[TranscodeProgress] = []
    async for message in messages:
        pauses -= is_pause(message, seen[-1] if seen else None)
        seen.append(message)
        if not pauses:
            break
    return seen


async def with_steps(artifacts: Artifacts, ffmpeg: str, request: TranscodeRequest, step_s: float) -> list[TranscodeProgress]:
    """Read to the end; at each pause the committed place moves by a step, and the bound is checked."""
    committed_s, seen, writes = 0.0, list[TranscodeProgress](), count(1)
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(request)) as messages:
        async for message in messages:
            if is_pause(message, seen[-1] if seen else None):
                committed_s += step_s
                CommittedPlace(committed_s, next(writes)).store(artifacts, KEY)
            assert message.decoded_s <= committed_s + AHEAD_S + CHUNK_S or message.finished
            seen.append(message)
    return seen


def windows_of(messages: list[TranscodeProgress]) -> list[Window]:
    return [window for message in messages for window in message.windows]


def contents(artifacts: Artifacts, prefix: str) -> dict[str, bytes]:
    """All artifacts of a folder but the committed place, by name."""
    keys = [key for key in artifacts.keys(prefix) if "committed" not in key]
    return {key.removeprefix(prefix): artifacts.read(key) for key in keys}


async def test_a_decode_whose_consumer_commits_nothing_stays_within_its_bound(source: Artifacts, ffmpeg: str) -> None:
    async with aclosing(Transcoder(source, ffmpeg).windows(BOUND)) as messages:
        seen = await up_to_pauses(messages, 5)
    assert AHEAD_S < seen[-1].decoded_s <= AHEAD_S + CHUNK_S
    assert sum(source.sizes("pcm").values()) < 2 * SAMPLE_RATE * (AHEAD_S + CHUNK_S)


@pytest.mark.parametrize("channels", [False, True])
async def test_it_goes_on_as_the_place_moves_and_plans_as_an_unlimited_one(
    source: Artifacts, ffmpeg: str, pcm: bytes, channels: bool
) -> None:
    if channels:
        source.put("source/it", side_by_side(pcm, pcm[2 * 100 * SAMPLE_RATE : 2 * 200 * SAMPLE_RATE]))
    bound, free = replace(BOUND, channels=channels), replace(FREE, channels=channels)
    messages = await with_steps(source, ffmpeg, bound, 30.0)
    unlimited = [message async for message in Transcoder(source, ffmpeg).windows(free)]
    assert windows_of(messages) == windows_of(unlimited)
    assert contents(source, "pcm") == contents(source, "free")
    assert (messages[-1].finished, messages[-1].decoded_s) == (True, 360.0)


async def test_a_decode_that_was_left_in_a_pause_resumes_once_it_is_needed(source: Artifacts, ffmpeg: str) -> None:
    async with aclosing(Transcoder(source, ffmpeg).windows(BOUND)) as messages:
        first = windows_of(await up_to_pauses(messages))
    other = replace(BOUND, progress_key="pcm/committed.8")
    before = children()
    async with aclosing(Transcoder(source, ffmpeg).windows(other)) as messages:
        assert list((await anext(messages)).windows) == first
        assert is_pause(await anext(messages), TranscodeProgress((), 0.0, False))
        assert children() == before  # most of the plan is unused
        CommittedPlace(first[-1].end / SAMPLE_RATE - AHEAD_S / 2, 1).store(source, "pcm/committed.8")
        await up_to_pauses(messages)
        assert len(children() - before) == 1
    messages_to_end = await with_steps(source, ffmpeg, BOUND, 50.0)
    unlimited = [message async for message in Transcoder(source, ffmpeg).windows(FREE)]
    assert windows_of(messages_to_end) == windows_of(unlimited)
    whole, free = contents(source, "pcm"), contents(source, "free")
    assert whole == free


async def test_a_pause_fails_no_health_check(source: Artifacts, ffmpeg: str) -> None:
    now = 0.0
    transcoder = Transcoder(source, ffmpeg, clock=lambda: now)
    async with aclosing(transcoder.windows(BOUND)) as messages:
        await up_to_pauses(messages)
        for _ in range(3):
            pausing = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            now += 800
            await transcoder.check_health()
            await pausing
        pausing = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0)
        now += 10_000  # longer than a pause may go unreported
        with pytest.raises(Stalled):
            await transcoder.check_health()
        await pausing


async def test_cancelling_a_stream_that_pauses_ends_it_at_once(
    source: Artifacts, ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, messages = children(), Transcoder(source, ffmpeg).windows(BOUND)
    await up_to_pauses(messages)
    for name in ("POLL_S", "LONGEST_POLL_S", "MESSAGE_S"):
        monkeypatch.setattr(run_ahead, name, 3600.0)
    pausing = asyncio.ensure_future(anext(messages))
    done, _ = await asyncio.wait([pausing], timeout=0.2)
    assert not done
    pausing.cancel()
    await asyncio.wait_for(asyncio.wait([pausing]), 30)
    assert pausing.cancelled()
    assert children() == before


async def test_closing_a_stream_that_pauses_ends_it(source: Artifacts, ffmpeg: str) -> None:
    before, messages = children(), Transcoder(source, ffmpeg).windows(BOUND)
    await up_to_pauses(messages)
    await asyncio.wait_for(messages.aclose(), 30)
    assert children() == before


async def test_a_stream_that_nobody_uses_any_more_ends(
    source: Artifacts, ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, before = count(1), children()
    async with aclosing(Transcoder(source, ffmpeg).windows(BOUND)) as messages:
        await up_to_pauses(messages)
        monkeypatch.setattr(run_ahead, "ABANDONED_S", 0.5)
        until = asyncio.get_running_loop().time() + 1.0
        while asyncio.get_running_loop().time() < until:  # its consumer lives, though it commits nothing
            CommittedPlace(0.0, next(writes)).store(source, KEY)
            await anext(messages)
        with pytest.raises(StageUnavailable):
            await up_to_pauses(messages, 10_000)
    assert children() == before


async def test_an_outage_of_the_storage_is_waited_out_in_a_pause(
    source: Artifacts, ffmpeg: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(Transcoder(source, ffmpeg).windows(BOUND)) as messages:
        seen = await up_to_pauses(messages)
        with monkeypatch.context() as away:

            def fail(*_: object) -> CommittedPlace:
                raise StorageUnavailable("away")

            away.setattr(CommittedPlace, "load", fail)
            away.setattr(run_ahead, "ABANDONED_S", 0.2)
            await up_to_pauses(messages, 20)
        CommittedPlace(50.0, 1).store(source, KEY)
        seen = await up_to_pauses(messages)
    assert seen[-1].decoded_s > AHEAD_S + CHUNK_S


async def test_a_torn_or_missing_place_is_the_beginning(artifacts: Artifacts) -> None:
    assert CommittedPlace.load(artifacts, KEY) == CommittedPlace()
    for torn in (b"", b"12", b"a b"):
        artifacts.put(KEY, torn)
        assert CommittedPlace.load(artifacts, KEY) == CommittedPlace()
    CommittedPlace(12.5, 3).store(artifacts, KEY)
    assert CommittedPlace.load(artifacts, KEY) == CommittedPlace(12.5, 3)


async def test_an_mp3_copy_that_pauses_is_not_swept(source: Artifacts, ffmpeg: str) -> None:
    folder = Path(source.uri.removeprefix("file://")) / PARTS
    async with aclosing(Transcoder(source, ffmpeg).windows(replace(BOUND, listening_key="it.mp3"))) as messages:
        await up_to_pauses(messages)
        (copy,) = folder.iterdir()
        os.utime(copy, (0, 0))
        await up_to_pauses(messages, 3)
        assert source.delete_unfinished(3600.0) == 0
        CommittedPlace(1000.0, 1).store(source, KEY)
        assert [message async for message in messages][-1].finished
    assert source.size("it.mp3")
