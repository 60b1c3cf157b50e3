"""The decoder's sandbox: no file written, few opened, bounded memory, CPU time and waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from deployments.errors import CorruptMedia
from deployments.transcoding import decoder as decoder_module
from deployments.transcoding.decoder import OPEN_FILES, Decoder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds another process")

# Start of a program that waits for its limits: this one is set last, and is unlike any limit of the shell.
SANDBOXED = f"import resource as r, time\nwhile r.getrlimit(r.RLIMIT_NOFILE)[0] != {OPEN_FILES}: time.sleep(0.01)\n"


async def start(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float = 1.0) -> Decoder:
    """Start a decoder that runs a Python program instead of ffmpeg."""
    monkeypatch.setattr(decoder_module, "decode_command", lambda *_: [sys.executable, "-c", program])
    with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230
        return await Decoder.start("", nothing.fileno(), seconds)


async def output(decoder: Decoder) -> str:
    """Read all output; it comes in pairs of bytes."""
    data = b""
    while chunk := await decoder.read(1000):
        data += chunk
    await decoder.stop()
    return data.decode().strip()


async def test_its_limits_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = '("CPU", "AS", "FSIZE", "NOFILE", "CORE")'
    program = f"{SANDBOXED}print(*(r.getrlimit(getattr(r, 'RLIMIT_' + name))[0] for name in {names}), '  ')"
    limits = [int(word) for word in (await output(await start(monkeypatch, program, 600.0))).split()]
    assert limits == [138, decoder_module.MEMORY_BYTES, 0, OPEN_FILES, 0]


async def test_it_writes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = f"{SANDBOXED}open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')"
    assert not await output(await start(monkeypatch, program))
    assert not (tmp_path / "x").read_bytes()


async def test_its_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"{SANDBOXED}\ntry: bytearray({decoder_module.MEMORY_BYTES})\nexcept MemoryError: print('bounded  ')"
    assert await output(await start(monkeypatch, program)) == "bounded"


async def test_a_source_that_takes_too_much_cpu_time_is_corrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "CPU_S", 1)
    decoder = await start(monkeypatch, "while True: pass")
    assert await decoder.read(100) == b""
    with pytest.raises(CorruptMedia, match="too much work"):
        await decoder.check_exit()
    await decoder.stop()


@pytest.mark.parametrize("times", [1, 4])
async def test_an_ffmpeg_that_catches_sigxcpu_is_still_reported(
    sample: Path, times: int, request: pytest.FixtureRequest
) -> None:
    """ffmpeg catches the signal and exits as if asked to quit; at the fourth signal it exits at once."""
    program: str = request.getfixturevalue("ffmpeg")
    with sample.open("rb") as source:
        decoder = await Decoder.start(program, source.fileno(), 100.0)
        assert await decoder.read(1000)
        for _ in range(times):
            os.kill(decoder._process.pid, signal.SIGXCPU)
        while await decoder.read(100_000):
            pass
        with pytest.raises(CorruptMedia, match="too much work"):
            await decoder.check_exit()
        await decoder.stop()


async def test_a_decoder_without_output_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "STALLED_S", 0.2)
    decoder = await start(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(CorruptMedia, match="too long"):
        await decoder.read(100)
    await decoder.stop()


async def test_it_is_a_process_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = await start(monkeypatch, "import os; print(os.getpgrp() == os.getpid(), end='')")
    assert await decoder.read(2) == b"True"
    await decoder.check_exit()
    await asyncio.wait_for(decoder.stop(), 10)
