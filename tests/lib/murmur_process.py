"""Run the `murmur` command in a subprocess."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.lib.harness import free_port
from serve_app.local.valkey import Valkey

MURMUR = Path(sys.executable).with_name("murmur")
STOP_S = 60  # timeout of a stop; on an idle machine it takes a quarter of it at most


def command(process: psutil.Process) -> list[str]:
    """Command line of a process; empty if it has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def murmur(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
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
    """Running `murmur up`."""

    process: subprocess.Popen[str]
    port: int
    data_dir: Path
    errors: Path  # its standard error

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> str:
        """Wait for its line on standard output; empty if it ends without one."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def family(self) -> list[psutil.Process]:
        """Descendant processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def named(self, *words: str) -> list[psutil.Process]:
        """Descendant processes whose command line contains one of `words`."""
        return [p for p in self.family() if any(word in " ".join(command(p)) for word in words)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status. TimeoutExpired."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)


@contextmanager
def up(data_dir: Path, *arguments: str, **environment: str) -> Iterator[Up]:
    """Start `murmur up`, and stop it with all its descendants at the end."""
    port = free_port()
    errors = data_dir.with_name(f"{data_dir.name}.errors")
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            [MURMUR, "up", "--data-dir", data_dir, "--port", str(port), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Up(process, port, data_dir, errors)
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


@contextmanager
def valkey_server(data_dir: Path) -> Iterator[Valkey]:
    """Valkey with no other clients."""
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as run_dir:  # for a short socket path
        server = Valkey(data_dir, Path(run_dir))
        server.start()
        try:
            yield server
        finally:
            server.stop()
