"""The decoder's sandbox: no file, network or other process, bounded memory, CPU time and waiting."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.errors import CorruptMedia, StageLost, WorkError
from deployments.transcoding import decoder as decoder_module
from deployments.transcoding.cage import MEMORY_BYTES, OPEN_FILES, Enforcement, caged, enforcement
from deployments.transcoding.decoder import Decoder
from deployments.transcoding.launcher import AUDIT, MACHINES, instructions
from tests.lib.media import children

LANDLOCKED = pytest.mark.skipif(not enforcement().landlock, reason="this kernel has no Landlock")
FILTERED = pytest.mark.skipif(not enforcement().seccomp, reason="this kernel has no seccomp filter")
PYTHON = str(Path(sys.executable).resolve())


async def start(monkeypatch: pytest.MonkeyPatch, program: str, seconds: float = 1.0) -> Decoder:
    """Start a decoder that runs a Python program instead of ffmpeg."""
    monkeypatch.setattr(decoder_module, "decode_command", lambda *_: [PYTHON, "-c", program])
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
    program = f"import resource as r; print(*(r.getrlimit(getattr(r, 'RLIMIT_' + name))[0] for name in {names}), '  ')"
    limits = [int(word) for word in (await output(await start(monkeypatch, program, 600.0))).split()]
    assert limits == [138, MEMORY_BYTES, 0, OPEN_FILES, 0]


async def attempt(monkeypatch: pytest.MonkeyPatch, code: str) -> str:
    """Run a statement in the decoder's place. Returns the name of its exception, or `done`."""
    lines = [
        "try:",
        f"    {code}",
        "    print('done  ')",
        "except BaseException as error:",
        "    print(type(error).__name__, '  ')",
    ]
    return (await output(await start(monkeypatch, "import os, socket, signal\n" + "\n".join(lines)))).strip()


@LANDLOCKED
@pytest.mark.parametrize(
    "code",
    [
        "open('{folder}/secret').read()",
        "open('/etc/passwd').read()",
        "os.listdir('{folder}')",
        "open(f'/proc/{{os.getppid()}}/maps').read()",
        "open('/proc/self/environ').read()",
    ],
)
async def test_it_reads_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    (tmp_path / "secret").write_text("secret")
    assert await attempt(monkeypatch, code.format(folder=tmp_path)) == "PermissionError"


@FILTERED
@pytest.mark.parametrize(
    "code",
    [
        "open('{folder}/secret', 'wb')",
        "open('{folder}/secret', 'ab')",
        "open('{folder}/new', 'xb')",
        "os.truncate('{folder}/secret', 0)",
        "os.unlink('{folder}/secret')",
        "os.rename('{folder}/secret', '{folder}/other')",
        "os.mkdir('{folder}/new')",
        "os.symlink('/etc/passwd', '{folder}/new')",
        "os.chmod('{folder}/secret', 0o777)",
        "os.mkfifo('{folder}/new')",
    ],
)
async def test_it_changes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o666)
    assert await attempt(monkeypatch, code.format(folder=tmp_path)) == "PermissionError"
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
    assert (tmp_path / "secret").read_text() == "secret"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o666


@FILTERED
@pytest.mark.parametrize(
    "code",
    [
        "socket.create_connection(('127.0.0.1', {port}))",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_UNIX)",
        "socket.socketpair()",
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {{}})",
        "os.kill(os.getppid(), 0)",
        "os.kill(os.getppid(), signal.SIGTERM)",
        "os.setsid()",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 5)",
    ],
)
async def test_it_has_no_network_and_no_other_process(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert await attempt(monkeypatch, code.format(port=server.getsockname()[1])) == "PermissionError"


@LANDLOCKED
async def test_it_executes_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(Path("/bin/sh").read_bytes())
    (tmp_path / "program").chmod(0o755)
    assert await attempt(monkeypatch, f"os.execv('{tmp_path}/program', ['sh', '-c', 'echo done'])") == "PermissionError"


@FILTERED
async def test_threads_memory_and_its_own_signals_work(monkeypatch: pytest.MonkeyPatch) -> None:
    thread = "import threading; t = threading.Thread(target=bytearray, args=(1 << 26,)); t.start(); t.join()"
    code = f"{thread}; os.kill(os.getpid(), 0)"
    assert await attempt(monkeypatch, code) == "done"


@LANDLOCKED
@pytest.mark.parametrize(
    "arguments",
    [
        ["-f", "data", "-i", "{folder}/secret", "-map", "0", "-c", "copy", "-f", "data", "pipe:1"],
        ["-f", "lavfi", "-i", "sine=d=1", "-f", "wav", "-y", "{folder}/secret"],
        ["-f", "s16le", "-i", "tcp://127.0.0.1:{port}", "-t", "1", "-f", "wav", "pipe:1"],
    ],
)
def test_even_an_ffmpeg_with_other_arguments_is_held(ffmpeg: str, tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "secret").write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [word.format(folder=tmp_path, port=server.getsockname()[1]) for word in arguments]
        result = subprocess.run(caged([ffmpeg, "-v", "error", *words], 10), capture_output=True, timeout=60, check=False)
    assert result.returncode != 0
    assert b"ermission denied" in result.stderr or b"not permitted" in result.stderr
    assert (tmp_path / "secret").read_text() == "secret"


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_refuses_what_it_does_not_name(machine: str) -> None:
    code = instructions(machine, 4321)
    socket_call, read = (41, 0) if machine == "x86_64" else (198, 63)
    assert run_filter(code, AUDIT[machine], read) == "permit"
    assert run_filter(code, AUDIT[machine], socket_call) == "refuse"
    assert run_filter(code, AUDIT[machine], 999) == "refuse"
    assert run_filter(code, 0x40000003, read) == "refuse"  # 32-bit calls have other numbers
    assert run_filter(code, AUDIT[machine], read | 0x40000000) == "refuse"
    kill, clone, openat = (62, 56, 257) if machine == "x86_64" else (129, 220, 56)
    assert run_filter(code, AUDIT[machine], kill, 4321) == "permit"
    assert run_filter(code, AUDIT[machine], kill, 1) == "refuse"
    assert run_filter(code, AUDIT[machine], clone, 0x10000) == "permit"
    assert run_filter(code, AUDIT[machine], clone, 17) == "refuse"
    assert run_filter(code, AUDIT[machine], openat, 0, 0, os.O_RDONLY) == "permit"
    assert run_filter(code, AUDIT[machine], openat, 0, 0, os.O_WRONLY) == "refuse"
    assert run_filter(code, AUDIT[machine], 435, 0x10000) == "missing"


def run_filter(code: list[tuple[int, int, int, int]], architecture: int, call: int, *arguments: int) -> str:
    """Interpret a BPF program as the kernel does."""
    data = struct.pack("=IIQ6Q", call, architecture, 0, *(*arguments, *[0] * 6)[:6])
    word = position = 0
    while True:
        operation, if_true, if_false, operand = code[position]
        position += 1
        if operation == 0x06:
            return {0x7FFF0000: "permit", 0x00050001: "refuse", 0x00050026: "missing"}[operand]
        if operation == 0x20:
            (word,) = struct.unpack_from("=I", data, operand)
        else:
            passed = {0x15: word == operand, 0x35: word >= operand, 0x45: bool(word & operand)}[operation]
            position += if_true if passed else if_false


@pytest.mark.parametrize(
    ("enforced", "missing"),
    [
        (Enforcement(7, seccomp=True), ""),
        (Enforcement(7, seccomp=False), "signal processes"),
        (Enforcement(0, seccomp=True), "read files"),
        (Enforcement(0, seccomp=False), "read files and use the network and signal processes and change files"),
    ],
)
def test_what_a_kernel_cannot_enforce_is_named(enforced: Enforcement, missing: str) -> None:
    assert enforced.missing == missing


async def test_it_writes_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    await output(await start(monkeypatch, f"open({str(tmp_path / 'x')!r}, 'wb', buffering=0).write(b'x')"))
    assert not (tmp_path / "x").exists() or not (tmp_path / "x").read_bytes()


async def test_its_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    program = f"try: bytearray({MEMORY_BYTES})\nexcept MemoryError: print('bounded  ')"
    assert await output(await start(monkeypatch, program)) == "bounded"


async def test_a_decoder_that_is_stopped_at_once_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    before = children()
    decoder = await start(monkeypatch, "import time; time.sleep(600)")
    await asyncio.wait_for(decoder.stop(), 10)
    assert children() == before


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


@pytest.mark.parametrize(
    ("script", "error"),
    [
        pytest.param("while True: pass", CorruptMedia, id="it works and works"),
        pytest.param("import time; time.sleep(600)", StageLost, id="it hangs"),
    ],
)
async def test_a_decoder_without_output_times_out(
    monkeypatch: pytest.MonkeyPatch, script: str, error: type[WorkError]
) -> None:
    monkeypatch.setattr(decoder_module, "STALLED_S", 0.5)
    decoder = await start(monkeypatch, script)
    with pytest.raises(error):
        await decoder.read(100)
    await decoder.stop()


async def test_it_is_a_process_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = await start(monkeypatch, "import os; print(os.getpgrp() == os.getpid(), end='')")
    assert await decoder.read(2) == b"True"
    await decoder.check_exit()
    await asyncio.wait_for(decoder.stop(), 10)
