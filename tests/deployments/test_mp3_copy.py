"""MP3 copy: made by the same ffmpeg as the PCM, atomic, and without blocking it."""

from __future__ import annotations

import asyncio
import os
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
from deployments.errors import AudioTooLong, NoAudio, StageDied, StorageUnavailable, UnsupportedMedia
from deployments.messages import TranscodeProgress, TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import to_float
from deployments.transcoding import decoder as decoder_module
from deployments.transcoding import ffmpeg as ffmpeg_module
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.ffmpeg import decode_command, encodes_mp3
from deployments.transcoding.mp3_copy import Mp3Copy
from deployments.transcoding.plan import plan_key
from deployments.transcoding.stage import Transcoder
from tests.lib.media import children, decode_at_once, make, side_by_side, wav
from tests.lib.recordings import s16le, tone

pytestmark = pytest.mark.usefixtures("memoized_vad")

MP3 = "listening.mp3"
REQUEST = TranscodeRequest("source/it", "pcm", 28.0, 3600.0, listening_key=MP3)


async def run(
    artifacts: Artifacts, ffmpeg: str, source: bytes, request: TranscodeRequest = REQUEST
) -> list[TranscodeProgress]:
    """Transcode a source."""
    artifacts.put(request.source_key, source)
    async with asyncio.timeout(60):
        return [progress async for progress in Transcoder(artifacts, ffmpeg).windows(request)]


def played(ffmpeg: str, mp3: bytes, channels: int = 1) -> NDArray[np.float32]:
    """Decode an MP3 like a player, at 16 kHz."""
    command = [ffmpeg, "-v", "error", "-f", "mp3", "-i", "-", "-f", "s16le", "-ac", str(channels), "-ar", "16000", "-"]
    player = subprocess.run(command, input=mp3, capture_output=True, check=True)
    assert not player.stderr
    return to_float(player.stdout)


def described(ffmpeg: str, mp3: bytes) -> str:
    return subprocess.run([ffmpeg, "-f", "mp3", "-i", "-"], input=mp3, capture_output=True, check=False).stderr.decode()


def descriptors() -> int:
    """Number of open file descriptors."""
    return psutil.Process().num_fds()


def nothing_left(artifacts: Artifacts) -> bool:
    """Whether neither the artifact nor a part of it is stored."""
    root = Path(artifacts.uri.removeprefix("file://"))
    return not [path for path in root.rglob("*") if MP3 in path.name or path.parent.name == "parts"]


async def test_it_plays_the_recording_at_full_length(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    messages = await run(artifacts, ffmpeg, sample.read_bytes())
    mp3 = artifacts.read(MP3)
    copy, recorded = played(ffmpeg, mp3), to_float(decode_at_once(ffmpeg, sample))
    assert len(copy) / SAMPLE_RATE == pytest.approx(messages[-1].decoded_s, abs=0.1)
    assert len(mp3) / 8000 == pytest.approx(messages[-1].decoded_s, abs=0.1)
    loudness = [np.sqrt(np.mean(s[: 57 * SAMPLE_RATE].reshape(57, -1) ** 2, axis=1)) for s in (copy, recorded)]
    assert np.corrcoef(*loudness)[0, 1] > 0.95


@pytest.mark.parametrize("channels", [False, True])
async def test_the_pcm_is_the_same_without_it(artifacts: Artifacts, ffmpeg: str, sample: Path, channels: bool) -> None:
    request = replace(REQUEST, channels=channels)
    with_it = await run(artifacts, ffmpeg, sample.read_bytes(), request)
    plain = await run(artifacts, ffmpeg, sample.read_bytes(), replace(request, pcm_prefix="plain", listening_key=None))
    parts = {
        prefix: {k.removeprefix(prefix): artifacts.read(k) for k in artifacts.keys(prefix)} for prefix in ("pcm", "plain")
    }
    assert parts["pcm"] == parts["plain"]
    assert with_it == plain


@pytest.mark.parametrize(("channels", "mp3"), [(1, "mono"), (2, "stereo"), (6, "stereo")])
async def test_it_is_mono_or_stereo(artifacts: Artifacts, ffmpeg: str, channels: int, mp3: str) -> None:
    tones = [s16le(tone(2.0, 300.0 + 200 * channel)) for channel in range(channels)]
    await run(artifacts, ffmpeg, side_by_side(*tones))
    assert f" 24000 Hz, {mp3}, " in described(ffmpeg, artifacts.read(MP3))
    if channels == 2:
        copy = played(ffmpeg, artifacts.read(MP3), 2).reshape(-1, 2)[8000:24_000]
        assert [int(np.argmax(np.abs(np.fft.rfft(copy[:, side])))) for side in (0, 1)] == [300, 500]


@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
async def test_sources_may_have_any_sample_rate(artifacts: Artifacts, ffmpeg: str, tmp_path: Path, rate: int) -> None:
    source = make(ffmpeg, tmp_path / "a.wav", "-f", "lavfi", "-i", f"sine=440:duration=3:sample_rate={rate}")
    await run(artifacts, ffmpeg, source.read_bytes())
    assert len(played(ffmpeg, artifacts.read(MP3))) / SAMPLE_RATE == pytest.approx(3.0, abs=0.1)


async def test_a_track_that_begins_later_begins_with_silence(artifacts: Artifacts, ffmpeg: str, tmp_path: Path) -> None:
    pictures = ("-f", "lavfi", "-i", "testsrc=duration=4:size=64x64:rate=10")
    late = ("-itsoffset", "2", "-f", "lavfi", "-i", "sine=440:duration=2", "-map", "0:v", "-map", "1:a")
    await run(artifacts, ffmpeg, make(ffmpeg, tmp_path / "a.mkv", *pictures, *late).read_bytes())
    copy = played(ffmpeg, artifacts.read(MP3))
    assert np.abs(copy[: int(1.9 * SAMPLE_RATE)]).max() < 0.01
    assert np.abs(copy[int(2.2 * SAMPLE_RATE) : int(2.4 * SAMPLE_RATE)]).max() > 0.05


async def test_a_second_run_keeps_it(artifacts: Artifacts, ffmpeg: str, sample: Path) -> None:
    await run(artifacts, ffmpeg, sample.read_bytes())
    mp3 = artifacts.read(MP3)
    assert (await run(artifacts, "/nowhere", b""))[-1].finished
    assert artifacts.read(MP3) == mp3


async def test_an_ffmpeg_without_an_mp3_encoder_makes_none(
    artifacts: Artifacts,
    ffmpeg: str,
    sample: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    assert encodes_mp3(ffmpeg)
    request.addfinalizer(encodes_mp3.cache_clear)
    encodes_mp3.cache_clear()
    monkeypatch.setattr(ffmpeg_module, "_query", lambda *_: " A....D flac")
    assert not encodes_mp3(ffmpeg)
    assert (await run(artifacts, ffmpeg, sample.read_bytes()))[-1].finished
    assert nothing_left(artifacts)
    assert len({record.message for record in caplog.records if "MP3" in record.message}) == 1


def test_an_ffmpeg_that_is_not_there_encodes_nothing() -> None:
    assert not encodes_mp3("/nowhere")


@pytest.mark.parametrize(
    ("source", "error"),
    [(wav(b""), NoAudio), (wav(s16le(tone(9.0)), 4_000_000_000), AudioTooLong), (b"no sound", UnsupportedMedia)],
)
async def test_a_source_that_fails_leaves_none(
    artifacts: Artifacts, ffmpeg: str, source: bytes, error: type[Exception]
) -> None:
    before = children()
    with pytest.raises(error):
        await run(artifacts, ffmpeg, source, replace(REQUEST, max_audio_s=5.0))
    assert nothing_left(artifacts)
    assert children() == before


async def test_leaving_early_leaves_none_and_no_descriptor(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before, opened = children(), descriptors()
    async with aclosing(Transcoder(artifacts, ffmpeg).windows(REQUEST)) as windows:
        await anext(windows)
        assert len(children() - before) == 1
    assert nothing_left(artifacts)
    assert (children(), descriptors()) == (before, opened)
    assert artifacts.size(plan_key("pcm")) is None


async def test_a_slow_reader_of_pcm_does_not_deadlock_ffmpeg(artifacts: Artifacts, ffmpeg: str) -> None:
    """Much more than both pipes hold: a pause in reading one must not block the other for ever."""
    artifacts.put("source/it", wav(s16le(tone(300.0))))
    async with asyncio.timeout(60):
        async for progress in Transcoder(artifacts, ffmpeg).windows(REQUEST):
            if progress.decoded_s < 20:
                await asyncio.sleep(0.3)  # ffmpeg blocks meanwhile on full pipes
    assert len(played(ffmpeg, artifacts.read(MP3))) / SAMPLE_RATE == pytest.approx(300, abs=0.1)


async def test_a_storage_error_is_raised_and_blocks_nothing(artifacts: Artifacts, ffmpeg: str) -> None:
    (Path(artifacts.uri.removeprefix("file://")) / "full").mkdir(parents=True)
    Path(artifacts.uri.removeprefix("file://"), "full/file").touch()
    with pytest.raises(StorageUnavailable):
        await run(artifacts, ffmpeg, wav(s16le(tone(300.0))), replace(REQUEST, listening_key="full/file/it.mp3"))
    assert artifacts.size(plan_key("pcm")) is None


async def test_a_program_that_does_not_start_leaves_no_descriptor(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", b"")
    opened = descriptors()
    async with Mp3Copy(artifacts, "it"):
        assert descriptors() == opened + 2
    assert descriptors() == opened
    assert artifacts.size("it") is None


async def test_a_decoder_that_dies_leaves_none(artifacts: Artifacts, ffmpeg: str) -> None:
    artifacts.put("source/it", wav(bytes(2 * 600 * SAMPLE_RATE)))
    before = children()

    async def kill_the_decoder() -> None:
        async for _ in Transcoder(artifacts, ffmpeg).windows(REQUEST):
            for pid in children() - before:
                os.kill(pid, 9)

    with pytest.raises(StageDied):
        await kill_the_decoder()
    assert nothing_left(artifacts)


def test_the_command_writes_to_two_pipes_and_no_file() -> None:
    command = decode_command("ffmpeg", 10.0, False, 7)
    assert [word for word in command if word.startswith("pipe:")] == ["pipe:1", "pipe:7"]
    assert [word for word in command if "file" in word or word.startswith("/")] == []
    assert command[: command.index("pipe:1")] == decode_command("ffmpeg", 10.0)[: command.index("pipe:1")]


async def test_it_may_write_to_the_pipe_and_to_no_file(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = (
        "import os, sys\n"
        "os.write(int(sys.argv[1]), b'music')\n"
        f"try: open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')\nexcept OSError: os.write(1, b'no')"
    )
    python = str(Path(sys.executable).resolve())
    monkeypatch.setattr(decoder_module, "decode_command", lambda *args: [python, "-c", program, str(args[3])])
    async with Mp3Copy(artifacts, "it") as copy:
        with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230
            decoder = await Decoder.start("", nothing.fileno(), 1.0, mp3=copy.descriptor)
        copy.start()
        assert await decoder.read(1) in (b"no", b"")  # a signal may have ended it
        await decoder.stop()
        await copy.commit()
    assert artifacts.read("it") == b"music"
    assert not (tmp_path / "x").exists() or not (tmp_path / "x").read_bytes()
