"""Separate channels: each with its own PCM and windows, in one order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from batching.types import SAMPLE_RATE, Window
from deployments.errors import AudioTooLong, NoAudio, UnsupportedMedia
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage import pcm
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import channel_prefix, read_pcm, to_float
from deployments.transcoding import stage
from deployments.transcoding.plan import plan_key
from deployments.transcoding.stage import Transcoder
from tests.lib.media import children, decode_at_once, make, side_by_side
from tests.lib.recordings import recording, s16le, tone

pytestmark = pytest.mark.usefixtures("memoized_vad")

SEPARATE = TranscodeRequest("source/it", "pcm", 28.0, 3600.0, channels=True)
MIXED = replace(SEPARATE, channels=False)


async def run(
    artifacts: Artifacts, ffmpeg: str, source: bytes, request: TranscodeRequest = SEPARATE
) -> list[TranscodeProgress]:
    """Transcode a source."""
    artifacts.put(request.source_key, source)
    return [progress async for progress in Transcoder(artifacts, ffmpeg).windows(request)]


def windows_of(messages: list[TranscodeProgress], channel: int | None = None) -> list[Window]:
    windows = [window for progress in messages for window in progress.windows]
    return windows if channel is None else [window for window in windows if window.channel == channel]


@pytest.fixture(scope="module")
def voices(ffmpeg: str, sample: Path) -> tuple[bytes, bytes]:
    """Two halves of the sample recording."""
    whole = decode_at_once(ffmpeg, sample)
    half = len(whole) // 4 * 2
    return whole[:half], whole[half:]


@pytest.fixture(scope="module")
def stereo(voices: tuple[bytes, bytes]) -> bytes:
    """Three minutes of both voices at once, one per channel: the second pauses where the first does not."""
    left, right = voices
    return side_by_side((left * 7)[: 2 * 170 * SAMPLE_RATE], (bytes(2 * 9 * SAMPLE_RATE) + right) * 5)


async def test_each_channel_is_stored_as_it_was(artifacts: Artifacts, ffmpeg: str, voices: tuple[bytes, bytes]) -> None:
    messages = await run(artifacts, ffmpeg, side_by_side(*voices))
    samples = round(messages[-1].decoded_s * SAMPLE_RATE)
    for channel, voice in enumerate(voices):
        stored = read_pcm(artifacts, channel_prefix("pcm", channel), 0, samples)
        assert np.array_equal(stored[: len(voice) // 2], to_float(voice))
    assert (messages[-1].channels, messages[-1].finished) == (2, True)


async def test_a_channel_has_the_same_windows_as_alone(
    artifacts: Artifacts, ffmpeg: str, stereo: bytes, voices: tuple[bytes, bytes]
) -> None:
    together = await run(artifacts, ffmpeg, stereo)
    samples = np.frombuffer(stereo[44:], "<i2").reshape(-1, 2)
    for channel in (0, 1):
        alone = await run(
            artifacts,
            ffmpeg,
            side_by_side(samples[:, channel].tobytes()),
            replace(MIXED, pcm_prefix=f"alone{channel}"),
        )
        assert [replace(w, channel=None, index=n) for n, w in enumerate(windows_of(together, channel))] == windows_of(alone)


async def test_windows_are_numbered_by_start_and_their_audio_is_stored(
    artifacts: Artifacts, ffmpeg: str, stereo: bytes
) -> None:
    artifacts.put("source/it", stereo)
    windows: list[Window] = []
    async for progress in Transcoder(artifacts, ffmpeg).windows(replace(SEPARATE, longest_s=8.0)):
        for window in progress.windows:
            prefix = channel_prefix("pcm", window.channel)
            assert len(read_pcm(artifacts, prefix, window.start, window.end)) == window.end - window.start
        windows += progress.windows
    assert [window.index for window in windows] == list(range(len(windows)))
    order = [(window.start, window.channel) for window in windows]
    assert order == sorted(order, key=lambda key: (key[0], key[1] or 0))
    assert {window.channel for window in windows} == {0, 1}
    assert all(window.seconds <= 8.0 for window in windows)


@pytest.mark.parametrize("part_s", [60, 7])
async def test_the_order_does_not_depend_on_chunk_sizes(
    artifacts: Artifacts, ffmpeg: str, stereo: bytes, part_s: int
) -> None:
    plans = []
    for chunk in (SAMPLE_RATE // 3, 5 * SAMPLE_RATE, 1000 * SAMPLE_RATE):
        request = replace(SEPARATE, longest_s=8.0, pcm_prefix=f"pcm{chunk}")
        with patch.object(stage, "CHUNK_SAMPLES", chunk), patch.object(pcm, "PART_SAMPLES", part_s * SAMPLE_RATE):
            plans.append(windows_of(await run(artifacts, ffmpeg, stereo, request)))
    assert len(plans[0]) > 20
    assert plans[0] == plans[1] == plans[2]


async def test_the_first_windows_do_not_wait_for_the_end(artifacts: Artifacts, ffmpeg: str, stereo: bytes) -> None:
    messages = await run(artifacts, ffmpeg, stereo)
    first = next(progress for progress in messages if progress.windows)
    assert first.decoded_s <= 65
    assert {window.channel for window in first.windows} == {0, 1}


async def test_a_silent_channel_holds_up_no_other(artifacts: Artifacts, ffmpeg: str, stereo: bytes) -> None:
    samples = np.frombuffer(stereo[44:], "<i2").reshape(-1, 2)[:, 0].tobytes()
    messages = await run(artifacts, ffmpeg, side_by_side(bytes(len(samples)), samples))
    assert next(progress for progress in messages if progress.windows).decoded_s <= 65
    assert {window.channel for window in windows_of(messages)} == {1}


async def test_identical_channels_have_the_same_windows(
    artifacts: Artifacts, ffmpeg: str, voices: tuple[bytes, bytes]
) -> None:
    windows = windows_of(await run(artifacts, ffmpeg, side_by_side(voices[0], voices[0])))
    assert [window.channel for window in windows] == [0, 1] * (len(windows) // 2)
    assert all(replace(a, index=0, channel=1) == replace(b, index=0) for a, b in list(pairwise(windows))[::2])


async def test_one_channel_is_channel_0(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    messages = await run(artifacts, ffmpeg, sample.read_bytes())
    mixed = await run(artifacts, ffmpeg, sample.read_bytes(), replace(MIXED, pcm_prefix="mixed"))
    assert messages[-1].channels == 1
    assert mixed[-1].channels is None
    assert windows_of(messages) == [replace(window, channel=0) for window in windows_of(mixed)]
    length = round(messages[-1].decoded_s * SAMPLE_RATE)
    assert np.array_equal(read_pcm(artifacts, "pcm/c0", 0, length), read_pcm(artifacts, "mixed", 0, length))


@pytest.mark.parametrize("channels", [3, 6, 8])
async def test_more_channels_are_separated_in_any_layout(artifacts: Artifacts, ffmpeg: str, channels: int) -> None:
    tones = [s16le(tone(2.0, 300.0 + 100 * channel)) for channel in range(channels)]
    messages = await run(artifacts, ffmpeg, side_by_side(*tones))
    assert (messages[-1].channels, messages[-1].decoded_s) == (channels, 2.0)
    for channel, sound in enumerate(tones):
        assert np.array_equal(read_pcm(artifacts, f"pcm/c{channel}", 0, 2 * SAMPLE_RATE), to_float(sound))


@pytest.mark.parametrize(("name", "layout"), [("a.m4a", "stereo"), ("a.ogg", "stereo"), ("a.flac", "5.1"), ("a.mka", "7.1")])
async def test_formats_keep_their_channels(
    artifacts: Artifacts, ffmpeg: str, tmp_path: Path, name: str, layout: str
) -> None:
    count = {"stereo": 2, "5.1": 6, "7.1": 8}[layout]
    sines = "|".join(f"0.3*sin({300 + 100 * channel}*2*PI*t)" for channel in range(count))
    source = make(ffmpeg, tmp_path / name, "-f", "lavfi", "-i", f"aevalsrc={sines}:c={layout}:d=2:s=48000")
    messages = await run(artifacts, ffmpeg, source.read_bytes())
    assert messages[-1].channels == count
    loudest = [pitch(read_pcm(artifacts, f"pcm/c{channel}", 0, SAMPLE_RATE)) for channel in range(count)]
    if name != "a.mka":  # its codec reorders channels, and low-passes the LFE channel
        assert sorted(loudest) == [300 + 100 * channel for channel in range(count)]


def pitch(sound: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
    """Loudest frequency in hertz, of one second."""
    return int(np.argmax(np.abs(np.fft.rfft(sound[:SAMPLE_RATE]))))


async def test_too_many_channels_are_refused_by_name(artifacts: Artifacts, ffmpeg: str) -> None:
    source = side_by_side(*[s16le(tone(1.0))] * 9)
    before = children()
    with pytest.raises(UnsupportedMedia, match=r"9 channels.*8.*\.$"):
        await run(artifacts, ffmpeg, source)
    assert children() == before


@pytest.mark.parametrize(("source", "error"), [(side_by_side(b"", b""), NoAudio), (b"no sound", UnsupportedMedia)])
async def test_a_source_without_audio_is_refused_as_usual(
    artifacts: Artifacts, ffmpeg: str, source: bytes, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await run(artifacts, ffmpeg, source)
    assert artifacts.size(plan_key("pcm")) is None


async def test_the_length_limit_does_not_depend_on_channels(artifacts: Artifacts, ffmpeg: str) -> None:
    source = side_by_side(*[s16le(tone(3.0))] * 4)
    assert (await run(artifacts, ffmpeg, source, replace(SEPARATE, max_audio_s=3.0)))[-1].decoded_s == 3.0
    with pytest.raises(AudioTooLong):
        await run(artifacts, ffmpeg, source, replace(SEPARATE, max_audio_s=2.5, pcm_prefix="short"))


async def test_a_second_run_loads_channels(artifacts: Artifacts, ffmpeg: str, voices: tuple[bytes, bytes]) -> None:
    first = await run(artifacts, ffmpeg, side_by_side(*voices))
    second = [progress async for progress in Transcoder(artifacts, "/nowhere").windows(SEPARATE)]
    assert second == [replace(first[-1], windows=tuple(windows_of(first)))]
    assert {window.channel for window in second[0].windows} == {0, 1}


async def test_leaving_early_kills_the_decoder(artifacts: Artifacts, ffmpeg: str, stereo: bytes) -> None:
    artifacts.put("source/it", stereo)
    before = children()
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(SEPARATE)) as windows:
        await anext(windows)
        assert len(children() - before) == 1
    assert children() == before


async def test_a_phone_call_has_speech_on_both_channels(artifacts: Artifacts, ffmpeg: str) -> None:
    call = recording("stereo/crafted_call_2ch_8k_mulaw.wav")
    messages = await run(artifacts, ffmpeg, call.read_bytes())
    turns = list(turns_of(call.with_name("crafted_call.rttm")))
    for channel in (0, 1):
        for start, end in (turn[1:] for turn in turns if turn[0] == channel):
            inside = (
                min(span.end, end) - max(span.start, start)
                for window in windows_of(messages, channel)
                for span in window.speech
                if span.start < end and start < span.end
            )
            assert sum(inside) > 0.5 * (end - start)


def turns_of(rttm: Path) -> Iterator[tuple[int, int, int]]:
    """(channel, start, end) of turns, in samples."""
    for line in rttm.read_text().splitlines():
        _, _, channel, start, length, *_ = line.split()
        first = int(float(start) * SAMPLE_RATE)
        yield int(channel) - 1, first, first + int(float(length) * SAMPLE_RATE)
