"""ffmpeg may do nothing but decode: no file written, few opened, bounded memory, processor time and waiting."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from deployments import ffmpeg as cage
from deployments.errors import CorruptMedia
from deployments.ffmpeg import Decoder

PROBE = """
import resource
for name in ("CPU", "AS", "FSIZE", "NOFILE", "CORE"):
    print(*resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
"""


def caged(program: str, seconds: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=partial(cage._cage, seconds), timeout=60
    )


def test_its_limits_are_set() -> None:
    cpu, memory, files, descriptors, cores = (line.split()[0] for line in caged(PROBE, 600.0).stdout.splitlines())
    assert (cpu, files, cores) == ("180", "0", "0")
    assert int(memory) <= cage.MEMORY_BYTES
    assert int(descriptors) <= cage.OPEN_FILES


def test_it_writes_no_file(tmp_path: Path) -> None:
    done = caged(f"open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')")
    assert done.returncode != 0
    assert not (tmp_path / "x").read_bytes()


def test_it_has_no_more_memory_than_it_may() -> None:
    assert "MemoryError" in caged(f"bytearray({cage.MEMORY_BYTES})").stderr


async def spinning(monkeypatch: pytest.MonkeyPatch, program: str) -> Decoder:
    """A decoder that is a program of ours."""
    monkeypatch.setattr(cage, "decode_command", lambda *_: [sys.executable, "-c", program])
    with Path(os.devnull).open("rb") as nothing:  # noqa: ASYNC230
        return await Decoder.start("", nothing.fileno(), 1.0)


async def test_a_source_that_takes_too_much_work_is_a_bad_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage, "CPU_S", 1)
    decoder = await spinning(monkeypatch, "while True: pass")
    assert await decoder.read(100) == b""
    with pytest.raises(CorruptMedia, match="too much work"):
        await decoder.verdict()
    await decoder.stop()


async def test_a_decoder_that_gives_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage, "STALLED_S", 0.2)
    decoder = await spinning(monkeypatch, "import time; time.sleep(600)")
    with pytest.raises(CorruptMedia, match="too long"):
        await decoder.read(100)
    await decoder.stop()


async def test_it_is_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = await spinning(monkeypatch, "import os; print(os.getpgrp() == os.getpid(), end='')")
    assert await decoder.read(2) == b"True"
    await decoder.verdict()
    await asyncio.wait_for(decoder.stop(), 10)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 0
