"""Transcoder stage: windows and PCM, early, once, within limits; and a set of malformed files."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from batching.types import SAMPLE_RATE, Window
from deployments.errors import AudioTooLong, CorruptMedia, NoAudio, StageLost, UnsupportedMedia
from deployments.health import Stalled
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import read_pcm, to_float
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.plan import PART_WINDOWS, StoredPlan, part_key, plan_key
from deployments.transcoding.stage import Transcoder
from tests.lib.media import children, decode_at_once, make, wav
from tests.lib.recordings import Recording, recordings, s16le, tone

pytestmark = pytest.mark.usefixtures("memoized_vad")

NASTY = [r for r in recordings("nasty") if "4_hours" not in r.path.name]
ELSEWHERE = TranscodeRequest("source/it", "elsewhere", 24.0, 3600.0)
REFUSALS = (UnsupportedMedia, CorruptMedia, NoAudio)


def request(longest_s: float = 28.0, max_audio_s: float = 3600.0) -> TranscodeRequest:
    return TranscodeRequest("source/it", "pcm", longest_s, max_audio_s)


async def run(
    artifacts: Artifacts, ffmpeg: str, source: bytes, options: TranscodeRequest | None = None
) -> list[TranscodeProgress]:
    """Transcode a source."""
    artifacts.put("source/it", source)
    return [progress async for progress in Transcoder(artifacts, ffmpeg).windows(options or request())]


def windows_of(messages: list[TranscodeProgress]) -> list[Window]:
    return [window for progress in messages for window in progress.windows]


@pytest.fixture(scope="module")
def ten_minutes(ffmpeg: str, sample: Path) -> bytes:
    """The sample recording, repeated."""
    once = decode_at_once(ffmpeg, sample)
    return wav((once * 11)[: 2 * 600 * SAMPLE_RATE])


async def test_windows_come_in_order_with_their_audio_stored(artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes) -> None:
    artifacts.put("source/it", ten_minutes)
    windows: list[Window] = []
    async for progress in Transcoder(artifacts, ffmpeg).windows(request(longest_s=15.0)):
        for window in progress.windows:
            assert len(read_pcm(artifacts, "pcm", window.start, window.end)) == window.end - window.start
        windows += progress.windows
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(before.end <= after.start for before, after in pairwise(windows))
    assert all(window.seconds <= 15.0 for window in windows)
    assert sum(window.seconds for window in windows) > 400


async def test_the_first_windows_come_while_most_is_not_decoded(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    messages = await run(artifacts, ffmpeg, ten_minutes)
    first = next(progress for progress in messages if progress.windows)
    assert first.decoded_s <= 120
    assert not first.finished
    assert messages[-1].decoded_s == pytest.approx(600)


async def test_only_the_last_message_is_finished(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    messages = await run(artifacts, ffmpeg, sample.read_bytes())
    assert [progress.finished for progress in messages] == [False] * (len(messages) - 1) + [True]
    decoded = [progress.decoded_s for progress in messages]
    assert decoded == sorted(decoded)
    assert decoded[-1] == pytest.approx(57.4, abs=0.1)


async def test_the_stored_parts_are_what_ffmpeg_decoded(artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes) -> None:
    pcm = ten_minutes[44 : 44 + 2 * 130 * SAMPLE_RATE]
    await run(artifacts, ffmpeg, wav(pcm))
    stored = read_pcm(artifacts, "pcm", 0, 130 * SAMPLE_RATE)
    assert np.array_equal(stored, to_float(pcm))


async def test_a_second_run_loads_the_plan_and_needs_no_source(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    first = await run(artifacts, ffmpeg, ten_minutes[: 2 * 130 * SAMPLE_RATE], request(longest_s=6.0))
    artifacts.delete("source")
    second = [progress async for progress in Transcoder(artifacts, "/nowhere").windows(request(longest_s=6.0))]
    assert second == [replace(first[-1], windows=tuple(windows_of(first)))]


async def test_leaving_early_kills_the_decoder_and_the_next_run_is_complete(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    artifacts.put("source/it", ten_minutes)
    before = children()
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(request())) as windows:
        first = await anext(windows)
        assert len(children() - before) == 1
    assert children() == before
    assert first.decoded_s < 600
    assert artifacts.size(plan_key("pcm")) is None
    again = await run(artifacts, ffmpeg, ten_minutes)
    assert again[-1].decoded_s == pytest.approx(600)


async def test_audio_without_speech_finishes_without_windows(artifacts: Artifacts, ffmpeg: str) -> None:
    messages = await run(artifacts, ffmpeg, wav(s16le(tone(7.0))))
    assert (windows_of(messages), messages[-1].finished, messages[-1].decoded_s) == ([], True, 7.0)


def declare_one_second(flac: bytes) -> bytes:
    """Make the header of a 16 kHz FLAC (the last 36 bits of eight bytes) declare one second."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + SAMPLE_RATE.to_bytes(4, "big") + flac[26:]


@pytest.mark.parametrize("kind", ["streamed wav", "huge wav", "flac"])
async def test_the_length_limit_is_for_decoded_audio_not_for_the_header(
    artifacts: Artifacts, ffmpeg: str, tmp_path: Path, kind: str
) -> None:
    pcm = s16le(tone(3.0))
    (tmp_path / "it.wav").write_bytes(wav(pcm))
    flac = make(ffmpeg, tmp_path / "it.flac", "-i", str(tmp_path / "it.wav")).read_bytes()
    source = {"streamed wav": wav(pcm, 0), "huge wav": wav(pcm, 4_000_000_000), "flac": declare_one_second(flac)}[kind]
    before = children()
    with pytest.raises(AudioTooLong, match=r"2\.5 s"):
        await run(artifacts, ffmpeg, source, request(max_audio_s=2.5))
    assert children() == before
    assert artifacts.size(plan_key("pcm")) is None


async def test_audio_as_long_as_allowed_is_not_too_long(artifacts: Artifacts, ffmpeg: str) -> None:
    messages = await run(artifacts, ffmpeg, wav(s16le(tone(3.0)), 4_000_000_000), request(max_audio_s=3.0))
    assert messages[-1].decoded_s == 3.0


def expected_outcome(recording: Recording) -> str:
    """Outcome that the manifest expects of a file; `any` where it allows both."""
    words = recording.expect
    if "or 4xx" in words or "4xx or" in words:
        # Among them two FLACs that no ffmpeg decodes, although the manifest hopes so.
        return "any"
    if "4xx" in words or "as above" in words:
        return "refused"
    if "empty text" in words and "plausible" not in words:
        return "silent"
    return "speech" if recording.text else "decoded"


async def outcome(recording: Recording, artifacts: Artifacts, ffmpeg: str) -> str:
    """Outcome of transcoding a file, in the same words."""
    try:
        messages = await run(artifacts, ffmpeg, recording.path.read_bytes())
    except REFUSALS:
        assert artifacts.size(plan_key("pcm")) is None
        return "refused"
    assert messages[-1].finished
    if expected_outcome(recording) != "any":
        assert messages[-1].decoded_s == pytest.approx(recording.duration_s or 0.0, abs=0.1)
    return "speech" if windows_of(messages) else "silent"


@pytest.mark.parametrize("recording", NASTY, ids=lambda r: r.path.name)
async def test_malformed_files_have_the_expected_outcome(artifacts: Artifacts, ffmpeg: str, recording: Recording) -> None:
    allowed = {"any": {"refused", "silent", "speech"}, "decoded": {"silent", "speech"}}
    expected = expected_outcome(recording)
    assert await outcome(recording, artifacts, ffmpeg) in allowed.get(expected, {expected})


async def test_a_video_without_an_audio_track_is_reported_as_such(artifacts: Artifacts, ffmpeg: str) -> None:
    for recording in NASTY:
        if "NO audio track" in recording.expect:
            with pytest.raises(NoAudio):
                await run(artifacts, ffmpeg, recording.path.read_bytes())


async def test_the_plan_of_a_killed_decoder_is_not_stored(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before = children()

    async def kill_the_decoder() -> None:
        async for _ in Transcoder(artifacts, ffmpeg).windows(request()):
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(StageLost):
        await kill_the_decoder()
    assert artifacts.size(plan_key("pcm")) is None


async def windows_until(artifacts: Artifacts, ffmpeg: str, options: TranscodeRequest, count: int) -> list[Window]:
    """Leave a transcode once it has yielded so many windows."""
    windows: list[Window] = []
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(options)) as messages:
        async for progress in messages:
            windows += progress.windows
            if len(windows) >= count:
                break
    return windows


async def test_a_transcode_that_was_left_goes_on_with_the_same_windows(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    whole = windows_of(await run(artifacts, ffmpeg, ten_minutes, request(longest_s=6.0)))
    artifacts.delete("pcm")
    first = await windows_until(artifacts, ffmpeg, request(longest_s=6.0), 70)
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(request(longest_s=6.0))) as again:
        assert list((await anext(again)).windows) == first == whole[: len(first)]
    messages = await run(artifacts, ffmpeg, ten_minutes, request(longest_s=6.0))
    assert windows_of(messages) == whole
    assert not messages[0].finished
    assert [message.finished for message in messages[1:]] == [False] * (len(messages) - 2) + [True]
    assert windows_of(await run(artifacts, "/nowhere", b"")) == whole


async def test_a_transcode_that_goes_on_with_another_planner_loses_and_repeats_nothing(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    artifacts.put("source/it", ten_minutes)
    first = await windows_until(artifacts, ffmpeg, request(longest_s=24.0), 5)
    spans = [span for window in windows_of(await run(artifacts, ffmpeg, ten_minutes, ELSEWHERE)) for span in window.speech]
    windows = windows_of(await run(artifacts, ffmpeg, ten_minutes, request(longest_s=26.0)))
    assert windows[: len(first)] == first
    assert [span for window in windows for span in window.speech] == spans
    assert all(before.end <= after.start or after.joined for before, after in pairwise(windows))
    assert [window.index for window in windows] == list(range(len(windows)))


@pytest.mark.parametrize("lost", ["pcm/00000.s16le", "pcm/00001.s16le"])
async def test_windows_whose_audio_was_lost_wait_until_it_is_stored_again(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes, lost: str
) -> None:
    artifacts.put("source/it", ten_minutes)
    first = await windows_until(artifacts, ffmpeg, request(), 7)
    artifacts.delete(lost)
    windows: list[Window] = []
    async for progress in Transcoder(artifacts, ffmpeg).windows(request()):
        for window in progress.windows:
            assert len(read_pcm(artifacts, "pcm", window.start, window.end)) == window.end - window.start
        windows += progress.windows
    assert windows[: len(first)] == first
    assert [window.index for window in windows] == list(range(len(windows)))
    artifacts.delete(lost)
    again = await run(artifacts, ffmpeg, ten_minutes)
    assert windows_of(again) == windows
    assert len(again) > 1


async def test_parts_of_two_plans_are_not_mixed(artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes) -> None:
    artifacts.put("source/it", ten_minutes)
    await windows_until(artifacts, ffmpeg, request(longest_s=6.0), 70)
    stale = artifacts.read(part_key("pcm", 1))
    artifacts.delete("pcm")
    first = await windows_until(artifacts, ffmpeg, request(longest_s=5.0), 70)
    artifacts.put(part_key("pcm", 1), stale)
    plan = StoredPlan(artifacts, "pcm")
    assert plan.load() is None
    assert plan.windows == first[:PART_WINDOWS]


async def test_warnings_are_stored_with_the_plan(artifacts: Artifacts, ffmpeg: str, tmp_path: Path) -> None:
    shift = "asetpts='PTS+if(gte(T,3),4*3600,0)/TB'"
    tone = ("-f", "lavfi", "-i", "sine=440:duration=6:sample_rate=16000", "-af", shift)
    source = make(ffmpeg, tmp_path / "gap.mka", *tone, "-c:a", "flac").read_bytes()
    messages = await run(artifacts, ffmpeg, source)
    warnings = [warning for message in messages for warning in message.warnings]
    assert warnings[0].code == "timestamp_gap"
    (again,) = await run(artifacts, "/nowhere", source)
    assert list(again.warnings) == warnings


async def test_a_decode_that_hangs_fails_the_health_check_but_a_slow_caller_does_not(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    artifacts.put("source/it", ten_minutes)
    transcoder = Transcoder(artifacts, ffmpeg, clock=lambda: now)
    hung = asyncio.Event()

    async def hang(decoder: Decoder, samples: int) -> bytes:
        hung.set()
        await asyncio.sleep(60)
        return b""

    async with aclosing(transcoder.windows(request())) as messages:
        await anext(messages)
        now += 10_000
        await transcoder.check_health()
        monkeypatch.setattr(Decoder, "read", hang)
        reading = asyncio.ensure_future(anext(messages))
        await hung.wait()
        await transcoder.check_health()
        now += 10_000
        with pytest.raises(Stalled):
            await transcoder.check_health()
        reading.cancel()
        await asyncio.wait([reading])
    await transcoder.check_health()


async def test_a_gap_in_the_timestamps_takes_no_space(artifacts: Artifacts, ffmpeg: str, tmp_path: Path) -> None:
    gap_s = 200
    shift = f"asetpts='if(gte(T,2),PTS+{gap_s}/TB,PTS)'"
    source = make(ffmpeg, tmp_path / "a.mka", "-f", "lavfi", "-i", "sine=440:duration=4", "-af", shift, "-c:a", "libopus")
    await run(artifacts, ffmpeg, source.read_bytes())
    sizes = sorted(artifacts.sizes("pcm").values())
    assert sum(sizes) < 2 * 2 * 60 * SAMPLE_RATE + 1_000_000 < gap_s * 2 * SAMPLE_RATE
