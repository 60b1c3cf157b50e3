"""The command `murmur` as a user's shell runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.lib.harness import free_port

MURMUR = Path(sys.executable).with_name("murmur")
STOP_S = 60
"""What is not stopped within this time never is. Alone on its machine a service takes a quarter of it at most."""


def command(process: psutil.Process) -> list[str]:
    """Its command line; nothing where it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def murmur(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [MURMUR, *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
    )


@dataclass(frozen=True, slots=True)
class Up:
    """A `murmur up` that has been started."""

    process: subprocess.Popen[str]
    port: int
    data_dir: Path
    said: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> str:
        """Wait for its line on standard output; empty where it ended without one."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def family(self) -> list[psutil.Process]:
        """All that it started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, *words: str) -> list[psutil.Process]:
        """Those of them whose command line holds one of `words`."""
        return [p for p in self.family() if any(word in " ".join(command(p)) for word in words)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it; its exit status. TimeoutExpired where it does not stop."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


@contextmanager
def up(data_dir: Path, *arguments: str, **environment: str) -> Iterator[Up]:
    """Start it; in the end it and all of its own are gone."""
    port = free_port()
    said = data_dir.with_name(f"{data_dir.name}.said")
    with said.open("w") as errors:
        process = subprocess.Popen(
            [MURMUR, "up", "--data-dir", data_dir, "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Up(process, port, data_dir, said)
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
        for child in psutil.wait_procs(family, timeout=5)[1]:
            child.kill()
        assert process.stdout
        process.stdout.close()
