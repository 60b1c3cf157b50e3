"""The decoder and real ffmpeg on real files: formats, errors, and no access to other files."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest

from batching.types import SAMPLE_RATE
from deployments.errors import CorruptMedia, NoAudio, UnsupportedMedia, WorkError
from deployments.transcoding import ffmpeg as ffmpeg_module
from deployments.transcoding.decoder import Decoder, declared_duration, explain
from deployments.transcoding.ffmpeg import NoFfmpeg, decode_command, find_ffmpeg
from tests.lib.media import children, decode, decode_floats, make, wav
from tests.lib.recordings import recording, s16le, tone

TONE = ("-f", "lavfi", "-i", "sine=440:duration=2")
PICTURES = ("-f", "lavfi", "-i", "testsrc=duration=4:size=64x64:rate=10")


async def test_the_sample_decodes_to_its_length(ffmpeg: str, sample: Path) -> None:
    length = json.loads(sample.with_suffix(".json").read_text())["duration_s"]
    assert len(await decode(ffmpeg, sample)) / 2 / SAMPLE_RATE == pytest.approx(length, abs=0.001)


async def test_no_more_is_decoded_than_requested(ffmpeg: str, sample: Path) -> None:
    assert len(await decode(ffmpeg, sample, seconds=2.5)) == 2.5 * SAMPLE_RATE * 2


async def test_samples_come_through_unchanged(ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "tone.wav").write_bytes(wav(s16le(tone(1.0))))
    assert await decode(ffmpeg, tmp_path / "tone.wav") == s16le(tone(1.0))


@pytest.mark.parametrize(
    "name", ["a.mp3", "a.m4a", "a.flac", "a.ogg", "a.opus", "a.webm", "a.mkv", "a.aiff", "a.au", "a.ts"]
)
async def test_common_formats_decode(ffmpeg: str, tmp_path: Path, name: str) -> None:
    audio = await decode_floats(ffmpeg, make(ffmpeg, tmp_path / name, *TONE))
    assert len(audio) / SAMPLE_RATE == pytest.approx(2.0, abs=0.1)
    assert np.abs(audio).max() == pytest.approx(0.125, abs=0.02)


def test_the_command_opens_one_descriptor_and_nothing_else() -> None:
    command = decode_command("/usr/bin/ffmpeg", 10.0)
    options = dict(pairwise(command))
    assert command[0] == "/usr/bin/ffmpeg"
    assert [value for option, value in pairwise(command) if option == "-i"] == ["fd:"]
    assert (options["-fd"], options["-protocol_whitelist"]) == ("0", "fd")
    assert not {"concat", "hls", "dash", "image2", "lavfi", "sdp", "tee"} & set(options["-format_whitelist"].split(","))
    assert command.index("-format_whitelist") < command.index("-i")
    assert [word for word in command if word.startswith("pipe:")] == ["pipe:1"]


@pytest.mark.parametrize("name", ["list.mp4", "list.wav", "list.m3u8"])
@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile 'secret.wav'\n",
        "ffconcat version 1.0\nfile '{folder}/secret.wav'\n",
        "ffconcat version 1.0\nfile 'file:{folder}/secret.wav'\n",
        "#EXTM3U\n#EXTINF:1,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXTINF:1,\nfile://{folder}/secret.wav\n#EXT-X-ENDLIST\n",
        "v=0\nm=audio 9 RTP/AVP 0\nc=IN IP4 127.0.0.1\n",
    ],
)
async def test_a_file_that_names_another_is_refused(
    ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret.wav"
    secret.write_bytes(wav(s16le(tone(1.0))))
    os.utime(secret, (0, 0))
    (tmp_path / name).write_text(script.format(folder=tmp_path))
    with pytest.raises(UnsupportedMedia):
        await decode(ffmpeg, tmp_path / name)
    assert secret.stat().st_atime == 0


async def test_a_picture_is_refused_whatever_its_name(ffmpeg: str, tmp_path: Path) -> None:
    picture = make(ffmpeg, tmp_path / "a.png", *PICTURES, "-frames:v", "1")
    with pytest.raises(UnsupportedMedia):
        await decode(ffmpeg, picture.rename(tmp_path / "picture.wav"))


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
async def test_a_video_without_an_audio_track_has_no_audio(ffmpeg: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(NoAudio):
        await decode(ffmpeg, make(ffmpeg, tmp_path / name, *PICTURES))


async def test_pictures_beside_the_audio_are_not_decoded(ffmpeg: str, tmp_path: Path) -> None:
    film = make(ffmpeg, tmp_path / "film.mp4", *PICTURES, *TONE, "-vcodec", "mpeg4")
    with film.open("rb") as source:
        decoder = await Decoder.start(ffmpeg, source.fileno(), 60.0)
        while await decoder.read(SAMPLE_RATE):
            pass
        await decoder.check_exit()
        await decoder.stop()
    assert decoder.samples == pytest.approx(2 * SAMPLE_RATE, rel=0.05)
    assert "Codec (mpeg4) not on whitelist" in decoder._log.decode()


async def test_an_audio_codec_that_is_not_on_the_list_is_named(
    ffmpeg: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ffmpeg_module, "CODECS", "aac")
    with pytest.raises(UnsupportedMedia, match="The audio codec flac is not supported"):
        await decode(ffmpeg, make(ffmpeg, tmp_path / "tone.flac", *TONE))


async def test_a_header_with_nothing_after_it_has_no_audio(ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "empty.wav").write_bytes(wav(b""))
    with pytest.raises(NoAudio):
        await decode(ffmpeg, tmp_path / "empty.wav")


async def test_a_file_whose_audio_was_overwritten_is_corrupt(ffmpeg: str, tmp_path: Path) -> None:
    whole = make(ffmpeg, tmp_path / "a.m4a", *TONE).read_bytes()
    begin, end = whole.index(b"mdat") + 4, whole.index(b"moov") - 4
    assert end - begin > len(whole) // 2
    (tmp_path / "a.m4a").write_bytes(whole[:begin] + b"\xff" * (end - begin) + whole[end:])
    with pytest.raises(CorruptMedia):
        await decode(ffmpeg, tmp_path / "a.m4a")


@pytest.mark.parametrize("name", ["a.flac", "a.mp3", "a.ogg", "a.wav", "a.mkv"])
async def test_the_decodable_part_of_a_truncated_file_counts(ffmpeg: str, tmp_path: Path, name: str) -> None:
    file = make(ffmpeg, tmp_path / name, "-f", "lavfi", "-i", "anoisesrc=duration=8:amplitude=0.3")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert 2.5 < len(await decode(ffmpeg, file)) / 2 / SAMPLE_RATE < 5.5


@asynccontextmanager
async def decoding(program: str, descriptor: int) -> AsyncIterator[tuple[Decoder, int]]:
    """Run a decoder; yields it and its process id."""
    before = children()
    decoder = await Decoder.start(program, descriptor, 36_000)
    (pid,) = children() - before
    yield decoder, pid
    async with asyncio.timeout(20):
        await decoder.stop()
    assert not psutil.pid_exists(pid)


async def test_stopping_kills_a_decoder_with_more_output(ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(wav(bytes(2 * 600 * SAMPLE_RATE)))
    with (tmp_path / "long.wav").open("rb") as file:
        async with decoding(ffmpeg, file.fileno()) as (decoder, pid):
            assert len(await decoder.read(SAMPLE_RATE)) == 2 * SAMPLE_RATE
            # By then the pipe and asyncio's buffer are full.
            while psutil.Process(pid).io_counters().write_chars < 200_000:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.01)
            assert psutil.pid_exists(pid)


async def test_stopping_kills_a_decoder_whose_source_stalls(ffmpeg: str) -> None:
    source, sink = os.pipe()
    try:
        async with decoding(ffmpeg, source) as (decoder, pid):
            reading = asyncio.create_task(decoder.read(1))
            done, _ = await asyncio.wait([reading], timeout=0.1)
            assert not done
            assert psutil.pid_exists(pid)
            reading.cancel()
            await asyncio.wait([reading])
    finally:
        os.close(source)
        os.close(sink)


async def test_a_decoder_may_be_stopped_after_its_end_and_twice(ffmpeg: str, sample: Path) -> None:
    with sample.open("rb") as file:
        async with decoding(ffmpeg, file.fileno()) as (decoder, _):
            while await decoder.read(10 * SAMPLE_RATE):
                pass
            await decoder.check_exit()
            await decoder.stop()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
async def test_a_track_that_begins_later_begins_with_silence(ffmpeg: str, tmp_path: Path, name: str) -> None:
    film = make(ffmpeg, tmp_path / name, *PICTURES, "-itsoffset", "2", *TONE, "-map", "0:v", "-map", "1:a")
    audio = await decode_floats(ffmpeg, film)
    assert len(audio) / SAMPLE_RATE == pytest.approx(4.0, abs=0.1)
    assert np.abs(audio[: int(1.9 * SAMPLE_RATE)]).max() < 0.001
    assert np.abs(audio[int(2.1 * SAMPLE_RATE) : int(2.3 * SAMPLE_RATE)]).max() > 0.1


async def test_time_begins_where_the_only_track_begins(ffmpeg: str) -> None:
    audio = await decode_floats(ffmpeg, recording("nasty/m4a_starts_at_5s.m4a"))
    assert len(audio) / SAMPLE_RATE == pytest.approx(4.4, abs=0.1)
    assert np.abs(audio[:SAMPLE_RATE]).max() > 0.1


@pytest.mark.parametrize(("right", "peak"), [("0", 0.25), ("0.5*sin(440*2*PI*t)", 0.5), ("-0.5*sin(440*2*PI*t)", 0.0)])
async def test_two_channels_are_mixed(ffmpeg: str, tmp_path: Path, right: str, peak: float) -> None:
    both = f"aevalsrc=0.5*sin(440*2*PI*t)|{right}:d=1:s=16000"
    audio = await decode_floats(ffmpeg, make(ffmpeg, tmp_path / "a.wav", "-f", "lavfi", "-i", both))
    assert np.abs(audio).max() == pytest.approx(peak, abs=0.01)


@pytest.mark.parametrize(
    ("log", "status", "error"),
    [
        ("Stream map '0:a:0' matches no streams.", 234, NoAudio),
        ("Output file does not contain any stream", 234, NoAudio),
        ("Error opening input: Invalid data found", 183, UnsupportedMedia),
        ("0 frames decoded; 3 decode errors", 0, CorruptMedia),
        ("2 frames decoded; 1 decode errors", 0, CorruptMedia),
        ("0 frames decoded; 0 decode errors", 69, CorruptMedia),
        ("", 1, CorruptMedia),
        ("0 frames decoded; 0 decode errors", 0, NoAudio),
        ("", 0, NoAudio),
        ("1 frames decoded; 0 decode errors", 0, None),
    ],
)
def test_logs_map_to_errors(log: str, status: int, error: type[WorkError] | None) -> None:
    explained = explain(f"before\n{log}\nafter", status)
    assert (type(explained) if explained else None) is error
    assert explained is None or explained.message.endswith(".")


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("  Duration: 00:00:57.42, bitrate: 256 kb/s", 57.42),
        ("  Duration: 27:46:40.05, start: 0.025057, bitrate: 64 kb/s", 100_000.05),
        ("  Duration: N/A, bitrate: 256 kb/s", None),
        ("    title           : \n  Duration: 1", None),
        ("    comment         : Duration: 00:00:01.00, start: 0", None),
        ("", None),
    ],
)
def test_the_declared_duration_is_parsed_from_the_log(line: str, seconds: float | None) -> None:
    assert declared_duration(f"Input #0, wav, from 'fd:':\n  Metadata:\n{line}\n  Stream #0:0: Audio\n") == seconds


async def test_the_declared_duration_is_known_while_most_is_not_decoded(ffmpeg: str, tmp_path: Path) -> None:
    (tmp_path / "long.wav").write_bytes(wav(bytes(2 * 600 * SAMPLE_RATE)))
    with (tmp_path / "long.wav").open("rb") as file:
        decoder = await Decoder.start(ffmpeg, file.fileno(), 3600)
        while decoder.declared_s is None:
            assert await decoder.read(SAMPLE_RATE)
        assert (decoder.declared_s, decoder.samples < 60 * SAMPLE_RATE) == (600.0, True)
        await decoder.stop()


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, banner: str, protocols: str = "Input:\n  fd\n  file") -> str:
    """Make a fake ffmpeg the only program on the PATH."""
    program = folder / "ffmpeg"
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    query = ffmpeg_module._query

    def answer(path: str, option: str) -> str:
        if path != str(program):
            return query(path, option)
        return banner if option == "-version" else protocols

    monkeypatch.setattr(ffmpeg_module, "_query", answer)
    return str(program)


def test_an_ffmpeg_that_does_not_work_in_the_sandbox_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'ffmpeg version 9.0 Copyright (c)'; echo fd\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg().path == imageio_ffmpeg.get_ffmpeg_exe()


@pytest.mark.parametrize(("banner", "version"), [("8.1.3", "8.1.3"), ("n8.2-dev", "8.2.0"), ("10.0.1-0ubuntu1", "10.0.1")])
def test_a_new_ffmpeg_on_the_path_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str, version: str
) -> None:
    path = put_on_path(tmp_path, monkeypatch, f"ffmpeg version {banner} Copyright (c)")
    program = find_ffmpeg()
    assert (program.path, program.version) == (path, version)


@pytest.mark.parametrize(
    ("banner", "protocols"),
    [
        ("ffmpeg version 4.4.2-0ubuntu0.22.04.1 Copyright (c)", "fd"),
        ("ffmpeg version 8.1.2 Copyright (c)", "fd"),
        ("ffmpeg version 8.1 Copyright (c)", "fd"),
        ("ffmpeg version N-117-gabcdef Copyright (c)", "fd"),
        ("libav 12", "fd"),
        ("ffmpeg version 9.0.2 Copyright (c)", "file\n  pipe\n  fdx"),
    ],
)
def test_the_packaged_ffmpeg_is_used_instead_of_an_unsafe_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str, protocols: str
) -> None:
    put_on_path(tmp_path, monkeypatch, banner, protocols)
    assert find_ffmpeg().path == imageio_ffmpeg.get_ffmpeg_exe()


def test_without_any_safe_ffmpeg_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = put_on_path(tmp_path, monkeypatch, "ffmpeg version 5.1 Copyright (c)")
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: old)
    with pytest.raises(NoFfmpeg, match="imageio-ffmpeg"):
        find_ffmpeg()
