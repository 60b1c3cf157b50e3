"""A source → windows and PCM: early, once, within its limit; and a hundred strange files, each with a fitting end."""

from __future__ import annotations

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
from deployments.messages import Planned, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import read_pcm, to_float
from deployments.transcoding.stage import Transcoder, plan_key
from tests.lib.media import children, decode_at_once, make, wav
from tests.lib.recordings import Recording, recordings, s16le, tone

pytestmark = pytest.mark.usefixtures("memoized_vad")

NASTY = [r for r in recordings("nasty") if "4_hours" not in r.path.name]
REFUSALS = (UnsupportedMedia, CorruptMedia, NoAudio)


def request(longest_s: float = 28.0, max_audio_s: float = 3600.0) -> TranscodeRequest:
    return TranscodeRequest("source/it", "pcm", longest_s, max_audio_s)


async def run(artifacts: Artifacts, ffmpeg: str, source: bytes, asked: TranscodeRequest | None = None) -> list[Planned]:
    """All that a transcoder says about a source."""
    artifacts.put("source/it", source)
    return [planned async for planned in Transcoder(artifacts, ffmpeg).windows(asked or request())]


def windows_of(said: list[Planned]) -> list[Window]:
    return [window for planned in said for window in planned.windows]


@pytest.fixture(scope="module")
def ten_minutes(ffmpeg: str, sample: Path) -> bytes:
    """The sample again and again."""
    once = decode_at_once(ffmpeg, sample)
    return wav((once * 11)[: 2 * 600 * SAMPLE_RATE])


async def test_windows_come_in_order_with_their_audio_stored(artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes) -> None:
    artifacts.put("source/it", ten_minutes)
    windows: list[Window] = []
    async for planned in Transcoder(artifacts, ffmpeg).windows(request(longest_s=15.0)):
        for window in planned.windows:
            assert len(read_pcm(artifacts, "pcm", window.start, window.end)) == window.end - window.start
        windows += planned.windows
    assert [window.index for window in windows] == list(range(len(windows)))
    assert all(before.end <= after.start for before, after in pairwise(windows))
    assert all(window.seconds <= 15.0 for window in windows)
    assert sum(window.seconds for window in windows) > 400


async def test_the_first_windows_come_while_most_is_not_decoded(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    said = await run(artifacts, ffmpeg, ten_minutes)
    first = next(planned for planned in said if planned.windows)
    assert first.decoded_s <= 120
    assert not first.finished
    assert said[-1].decoded_s == pytest.approx(600)


async def test_it_is_finished_once_and_last(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    said = await run(artifacts, ffmpeg, sample.read_bytes())
    assert [planned.finished for planned in said] == [False] * (len(said) - 1) + [True]
    decoded = [planned.decoded_s for planned in said]
    assert decoded == sorted(decoded)
    assert decoded[-1] == pytest.approx(57.4, abs=0.1)


async def test_the_stored_parts_are_what_ffmpeg_decoded(artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes) -> None:
    pcm = ten_minutes[44 : 44 + 2 * 130 * SAMPLE_RATE]
    await run(artifacts, ffmpeg, wav(pcm))
    stored = read_pcm(artifacts, "pcm", 0, 130 * SAMPLE_RATE)
    assert np.array_equal(stored, to_float(pcm))


async def test_a_second_run_recalls_the_plan_and_needs_no_source(
    artifacts: Artifacts, ffmpeg: str, ten_minutes: bytes
) -> None:
    first = await run(artifacts, ffmpeg, ten_minutes[: 2 * 130 * SAMPLE_RATE], request(longest_s=6.0))
    artifacts.delete("source")
    second = [planned async for planned in Transcoder(artifacts, "/nowhere").windows(request(longest_s=6.0))]
    assert second == [replace(first[-1], windows=tuple(windows_of(first)))]


async def test_leaving_early_kills_the_decoder_and_the_next_run_is_whole(
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
    said = await run(artifacts, ffmpeg, wav(s16le(tone(7.0))))
    assert (windows_of(said), said[-1].finished, said[-1].decoded_s) == ([], True, 7.0)


def one_second_it_says(flac: bytes) -> bytes:
    """A FLAC at 16 kHz whose header (the last 36 bits of eight bytes) says that it holds a second."""
    return flac[:21] + bytes([flac[21] & 0xF0]) + SAMPLE_RATE.to_bytes(4, "big") + flac[26:]


@pytest.mark.parametrize("kind", ["streamed wav", "huge wav", "flac"])
async def test_too_long_is_what_was_decoded_not_what_the_header_says(
    artifacts: Artifacts, ffmpeg: str, tmp_path: Path, kind: str
) -> None:
    pcm = s16le(tone(3.0))
    (tmp_path / "it.wav").write_bytes(wav(pcm))
    flac = make(ffmpeg, tmp_path / "it.flac", "-i", str(tmp_path / "it.wav")).read_bytes()
    source = {"streamed wav": wav(pcm, 0), "huge wav": wav(pcm, 4_000_000_000), "flac": one_second_it_says(flac)}[kind]
    before = children()
    with pytest.raises(AudioTooLong, match=r"2\.5 s"):
        await run(artifacts, ffmpeg, source, request(max_audio_s=2.5))
    assert children() == before
    assert artifacts.size(plan_key("pcm")) is None


async def test_audio_as_long_as_allowed_is_not_too_long(artifacts: Artifacts, ffmpeg: str) -> None:
    said = await run(artifacts, ffmpeg, wav(s16le(tone(3.0)), 4_000_000_000), request(max_audio_s=3.0))
    assert said[-1].decoded_s == 3.0


def promise(recording: Recording) -> str:
    """What the manifest expects of a file, in a word; `any` where it allows either end."""
    words = recording.expect
    if "or 4xx" in words or "4xx or" in words:
        # Among them two FLACs that no ffmpeg decodes, of which it hopes that they were decoded.
        return "any"
    if "4xx" in words or "as above" in words:
        return "refused"
    if "empty text" in words and "plausible" not in words:
        return "silent"
    return "speech" if recording.text else "decoded"


async def end_of(recording: Recording, artifacts: Artifacts, ffmpeg: str) -> str:
    """What became of it, in the same words."""
    try:
        said = await run(artifacts, ffmpeg, recording.path.read_bytes())
    except REFUSALS:
        assert artifacts.size(plan_key("pcm")) is None
        return "refused"
    assert said[-1].finished
    if promise(recording) != "any":
        assert said[-1].decoded_s == pytest.approx(recording.duration_s or 0.0, abs=0.1)
    return "speech" if windows_of(said) else "silent"


@pytest.mark.parametrize("recording", NASTY, ids=lambda r: r.path.name)
async def test_strange_files_end_as_they_should(artifacts: Artifacts, ffmpeg: str, recording: Recording) -> None:
    allowed = {"any": {"refused", "silent", "speech"}, "decoded": {"silent", "speech"}}
    wanted = promise(recording)
    assert await end_of(recording, artifacts, ffmpeg) in allowed.get(wanted, {wanted})


async def test_a_video_without_sound_is_named_so(artifacts: Artifacts, ffmpeg: str) -> None:
    for recording in NASTY:
        if "NO audio track" in recording.expect:
            with pytest.raises(NoAudio):
                await run(artifacts, ffmpeg, recording.path.read_bytes())


async def test_the_plan_of_a_killed_decoder_is_not_remembered(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before = children()

    async def meet_with_an_accident() -> None:
        async for _ in Transcoder(artifacts, ffmpeg).windows(request()):
            for pid in children() - before:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(StageLost):
        await meet_with_an_accident()
    assert artifacts.size(plan_key("pcm")) is None
