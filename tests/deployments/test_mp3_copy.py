"""The MP3 to listen to: made beside the PCM by the same ffmpeg, whole or not at all, and in nobody's way."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE
from deployments.errors import AudioTooLong, NoAudio, StageDied, UnsupportedMedia
from deployments.messages import Planned, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import to_float
from deployments.transcoding import ffmpeg as ffmpeg_module
from deployments.transcoding.ffmpeg import Decoder, decode_command, encodes_mp3
from deployments.transcoding.mp3_copy import Piped
from deployments.transcoding.stage import Transcoder, plan_key
from tests.deployments.test_cage import CAGED
from tests.lib.media import children, decode_at_once, make, side_by_side, wav
from tests.lib.recordings import s16le, tone

pytestmark = pytest.mark.usefixtures("memoized_vad")

MP3 = "listening.mp3"
ASKED = TranscodeRequest("source/it", "pcm", 28.0, 3600.0, listening_key=MP3)


async def run(artifacts: Artifacts, ffmpeg: str, source: bytes, asked: TranscodeRequest = ASKED) -> list[Planned]:
    """All that a transcoder says about a source."""
    artifacts.put(asked.source_key, source)
    async with asyncio.timeout(60):
        return [planned async for planned in Transcoder(artifacts, ffmpeg).windows(asked)]


def played(ffmpeg: str, mp3: bytes, channels: int = 1) -> NDArray[np.float32]:
    """What a player makes of it, at 16 kHz."""
    command = [ffmpeg, "-v", "error", "-f", "mp3", "-i", "-", "-f", "s16le", "-ac", str(channels), "-ar", "16000", "-"]
    done = subprocess.run(command, input=mp3, capture_output=True, check=True)
    assert not done.stderr
    return to_float(done.stdout)


def described(ffmpeg: str, mp3: bytes) -> str:
    return subprocess.run([ffmpeg, "-f", "mp3", "-i", "-"], input=mp3, capture_output=True, check=False).stderr.decode()


def descriptors() -> int:
    """How many this process has open."""
    return psutil.Process().num_fds()


def nothing_left(artifacts: Artifacts) -> bool:
    """Neither the artifact nor a part of it."""
    root = Path(artifacts.uri.removeprefix("file://"))
    return not [path for path in root.rglob("*") if MP3 in path.name]


async def test_it_plays_what_was_recorded_for_as_long(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    said = await run(artifacts, ffmpeg, sample.read_bytes())
    mp3 = artifacts.read(MP3)
    heard, recorded = played(ffmpeg, mp3), to_float(decode_at_once(ffmpeg, sample))
    assert len(heard) / SAMPLE_RATE == pytest.approx(said[-1].decoded_s, abs=0.1)
    assert len(mp3) / 8000 == pytest.approx(said[-1].decoded_s, abs=0.1)
    loudness = [np.sqrt(np.mean(s[: 57 * SAMPLE_RATE].reshape(57, -1) ** 2, axis=1)) for s in (heard, recorded)]
    assert np.corrcoef(*loudness)[0, 1] > 0.95


@pytest.mark.parametrize("channels", [False, True])
async def test_the_samples_are_the_same_without_it(artifacts: Artifacts, ffmpeg: str, sample: Path, channels: bool) -> None:
    asked = replace(ASKED, channels=channels)
    with_it = await run(artifacts, ffmpeg, sample.read_bytes(), asked)
    plain = await run(artifacts, ffmpeg, sample.read_bytes(), replace(asked, pcm_prefix="plain", listening_key=None))
    parts = {
        prefix: {k.removeprefix(prefix): artifacts.read(k) for k in artifacts.keys(prefix)} for prefix in ("pcm", "plain")
    }
    assert parts["pcm"] == parts["plain"]
    assert with_it == plain


@pytest.mark.parametrize(("channels", "mp3"), [(1, "mono"), (2, "stereo"), (6, "stereo")])
async def test_it_has_as_many_channels_as_ears(artifacts: Artifacts, ffmpeg: str, channels: int, mp3: str) -> None:
    tones = [s16le(tone(2.0, 300.0 + 200 * channel)) for channel in range(channels)]
    await run(artifacts, ffmpeg, side_by_side(*tones))
    assert f" 24000 Hz, {mp3}, " in described(ffmpeg, artifacts.read(MP3))
    if channels == 2:
        heard = played(ffmpeg, artifacts.read(MP3), 2).reshape(-1, 2)[8000:24_000]
        assert [int(np.argmax(np.abs(np.fft.rfft(heard[:, side])))) for side in (0, 1)] == [300, 500]


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
async def test_any_rate_will_do(artifacts: Artifacts, ffmpeg: str, tmp_path: Path, rate: int) -> None:
    source = make(ffmpeg, tmp_path / "a.wav", "-f", "lavfi", "-i", f"sine=440:duration=3:sample_rate={rate}")
    await run(artifacts, ffmpeg, source.read_bytes())
    assert len(played(ffmpeg, artifacts.read(MP3))) / SAMPLE_RATE == pytest.approx(3.0, abs=0.1)


async def test_it_keeps_the_clock_of_a_track_that_begins_later(artifacts: Artifacts, ffmpeg: str, tmp_path: Path) -> None:
    pictures = ("-f", "lavfi", "-i", "testsrc=duration=4:size=64x64:rate=10")
    late = ("-itsoffset", "2", "-f", "lavfi", "-i", "sine=440:duration=2", "-map", "0:v", "-map", "1:a")
    await run(artifacts, ffmpeg, make(ffmpeg, tmp_path / "a.mkv", *pictures, *late).read_bytes())
    heard = played(ffmpeg, artifacts.read(MP3))
    assert np.abs(heard[: int(1.9 * SAMPLE_RATE)]).max() < 0.01
    assert np.abs(heard[int(2.2 * SAMPLE_RATE) : int(2.4 * SAMPLE_RATE)]).max() > 0.05


async def test_a_second_run_finds_it_where_it_was(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    await run(artifacts, ffmpeg, sample.read_bytes())
    mp3 = artifacts.read(MP3)
    assert (await run(artifacts, "/nowhere", b""))[-1].finished
    assert artifacts.read(MP3) == mp3


async def test_an_ffmpeg_that_makes_none_does_without(
    artifacts: Artifacts, ffmpeg: str, tmp_path: Path, sample: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poor = tmp_path / "ffmpeg"
    poor.write_text(f'#!/bin/sh\ncase "$*" in *-encoders*) echo " A....D flac" ;; *) exec {ffmpeg} "$@" ;; esac\n')
    poor.chmod(poor.stat().st_mode | stat.S_IXUSR)
    assert encodes_mp3(ffmpeg)
    assert not encodes_mp3(str(poor))
    assert not encodes_mp3("/nowhere")
    assert (await run(artifacts, str(poor), sample.read_bytes()))[-1].finished
    assert nothing_left(artifacts)
    assert len({record.message for record in caplog.records if "MP3" in record.message}) == 1


@pytest.mark.parametrize(
    ("source", "error"),
    [(wav(b""), NoAudio), (wav(s16le(tone(9.0)), 4_000_000_000), AudioTooLong), (b"no sound", UnsupportedMedia)],
)
async def test_a_source_that_fails_leaves_none(
    artifacts: Artifacts, ffmpeg: str, source: bytes, error: type[Exception]
) -> None:
    before = children()
    with pytest.raises(error):
        await run(artifacts, ffmpeg, source, replace(ASKED, max_audio_s=5.0))
    assert nothing_left(artifacts)
    assert children() == before


async def test_leaving_early_leaves_none_and_no_descriptor(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before, opened = children(), descriptors()
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(ASKED)) as windows:
        await anext(windows)
        assert len(children() - before) == 1
    assert nothing_left(artifacts)
    assert (children(), descriptors()) == (before, opened)
    assert artifacts.size(plan_key("pcm")) is None


async def test_nobody_who_reads_slowly_is_waited_for_in_vain(artifacts: Artifacts, ffmpeg: str) -> None:
    """Much more than both pipes hold: whoever stops reading one must not stop the other for ever."""
    artifacts.put("source/it", wav(s16le(tone(300.0))))
    async with asyncio.timeout(60):
        async for planned in Transcoder(artifacts, ffmpeg).windows(ASKED):
            if planned.decoded_s < 20:
                await asyncio.sleep(0.3)  # ffmpeg stands still meanwhile, with its pipes full
    assert len(played(ffmpeg, artifacts.read(MP3))) / SAMPLE_RATE == pytest.approx(300, abs=0.1)


async def test_a_storage_that_fails_is_told_and_holds_nothing_up(artifacts: Artifacts, ffmpeg: str) -> None:
    (Path(artifacts.uri.removeprefix("file://")) / "full").mkdir(parents=True)
    Path(artifacts.uri.removeprefix("file://"), "full/file").touch()
    with pytest.raises(OSError, match="file"):
        await run(artifacts, ffmpeg, wav(s16le(tone(300.0))), replace(ASKED, listening_key="full/file/it.mp3"))
    assert artifacts.size(plan_key("pcm")) is None


async def test_a_program_that_does_not_start_leaves_no_descriptor(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", b"")
    opened = descriptors()
    async with Piped(artifacts, "it"):
        assert descriptors() == opened + 2
    assert descriptors() == opened
    assert artifacts.size("it") is None


async def test_a_decoder_that_dies_leaves_none(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before = children()

    async def meet_with_an_accident() -> None:
        async for _ in Transcoder(artifacts, ffmpeg).windows(ASKED):
            for pid in children() - before:
                os.kill(pid, 9)

    with pytest.raises(StageDied):
        await meet_with_an_accident()
    assert nothing_left(artifacts)


def test_the_command_writes_to_two_pipes_and_no_file() -> None:
    command = decode_command("ffmpeg", 10.0, False, 7)
    assert [word for word in command if word.startswith("pipe:")] == ["pipe:1", "pipe:7"]
    assert [word for word in command if "file" in word or word.startswith("/")] == []
    assert command[: command.index("pipe:1")] == decode_command("ffmpeg", 10.0)[: command.index("pipe:1")]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds another process")
async def test_it_may_write_to_the_pipe_and_to_no_file(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = (
        f"import os, sys\n{CAGED}"
        "os.write(int(sys.argv[1]), b'heard')\n"
        f"try: open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')\nexcept OSError: os.write(1, b'no')"
    )
    monkeypatch.setattr(ffmpeg_module, "decode_command", lambda *how: [sys.executable, "-c", program, str(how[3])])
    async with Piped(artifacts, "it") as copy:
        with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230
            decoder = await Decoder.start("", nothing.fileno(), 1.0, mp3=copy.descriptor)
        copy.begin()
        assert await decoder.read(1) in (b"no", b"")  # a signal may have ended it
        await decoder.stop()
        await copy.keep()
    assert artifacts.read("it") == b"heard"
    assert not (tmp_path / "x").read_bytes()
