"""ffmpeg may do nothing but decode: no file written, few opened, bounded memory, processor time and waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from deployments.errors import CorruptMedia
from deployments.transcoding import ffmpeg
from deployments.transcoding.ffmpeg import OPEN_FILES, Decoder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds another process")

CAGED = f"import resource as r, time\nwhile r.getrlimit(r.RLIMIT_NOFILE)[0] != {OPEN_FILES}: time.sleep(0.01)\n"
"""A program's beginning that waits until its limits are set, of which this is the last; others may be those of the shell
that runs the tests."""


async def spinning(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float = 1.0) -> Decoder:
    """A decoder that is a program of ours."""
    monkeypatch.setattr(ffmpeg, "decode_command", lambda *_: [sys.executable, "-c", program])
    with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230
        return await Decoder.start("", nothing.fileno(), seconds)


async def told(decoder: Decoder) -> str:
    """All that it says, which comes as pairs of bytes."""
    words = b""
    while some := await decoder.read(1000):
        words += some
    await decoder.stop()
    return words.decode().strip()


async def test_its_limits_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = '("CPU", "AS", "FSIZE", "NOFILE", "CORE")'
    program = f"{CAGED}print(*(r.getrlimit(getattr(r, 'RLIMIT_' + name))[0] for name in {names}), '  ')"
    limits = [int(word) for word in (await told(await spinning(monkeypatch, program, 600.0))).split()]
    assert limits == [138, ffmpeg.MEMORY_BYTES, 0, ffmpeg.OPEN_FILES, 0]


async def test_it_writes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = f"{CAGED}open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')"
    assert not await told(await spinning(monkeypatch, program))
    assert not (tmp_path / "x").read_bytes()


async def test_it_has_no_more_memory_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"{CAGED}\ntry: bytearray({ffmpeg.MEMORY_BYTES})\nexcept MemoryError: print('bounded  ')"
    assert await told(await spinning(monkeypatch, program)) == "bounded"


async def test_a_source_that_takes_too_much_work_is_a_bad_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "CPU_S", 1)
    decoder = await spinning(monkeypatch, "while True: pass")
    assert await decoder.read(100) == b""
    with pytest.raises(CorruptMedia, match="too much work"):
        await decoder.verdict()
    await decoder.stop()


@pytest.mark.parametrize("times", [1, 4])
async def test_ffmpeg_itself_does_not_hide_that_its_time_was_over(
    sample: Path, times: int, request: pytest.FixtureRequest
) -> None:
    """It catches the signal, and ends as if it had been asked to; at the fourth it gives up at once."""
    program: str = request.getfixturevalue("ffmpeg")
    with sample.open("rb") as source:
        decoder = await Decoder.start(program, source.fileno(), 100.0)
        assert await decoder.read(1000)
        for _ in range(times):
            os.kill(decoder._process.pid, signal.SIGXCPU)
        while await decoder.read(100_000):
            pass
        with pytest.raises(CorruptMedia, match="too much work"):
            await decoder.verdict()
        await decoder.stop()


async def test_a_decoder_that_gives_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "STALLED_S", 0.2)
    decoder = await spinning(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(CorruptMedia, match="too long"):
        await decoder.read(100)
    await decoder.stop()


async def test_it_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = await spinning(monkeypatch, "import os; print(os.getpgrp() == os.getpid(), end='')")
    assert await decoder.read(2) == b"True"
    await decoder.verdict()
    await asyncio.wait_for(decoder.stop(), 10)
