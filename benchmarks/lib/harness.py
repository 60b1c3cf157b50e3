"""Harness: services, recordings of any length, and Markdown tables."""

from __future__ import annotations

import os
import platform
import random
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deployments.transcoding.ffmpeg import find_ffmpeg
from serve_app.cli.client import Client
from serve_app.local.service import LocalService
from serve_app.settings import Settings

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests/samples/two_voices.flac"


def looped(source: Path, seconds: float, target: Path, *, start_s: float = 0.0, bitrate: str = "64k") -> Path:
    """Loop `source` from `start_s` on to `seconds`, as MP3."""
    decoded = _ffmpeg("-i", source, "-vn", "-ac", 1, "-ar", 16000, target.with_suffix(".wav"))
    return _ffmpeg("-stream_loop", -1, "-i", decoded, "-ss", start_s, "-t", seconds, "-b:a", bitrate, target)


def silence(seconds: float, target: Path) -> Path:
    """Write digital silence as FLAC."""
    return _ffmpeg("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", seconds, target)


def concatenate(sources: Sequence[Path], target: Path) -> Path:
    inputs = [part for source in sources for part in ("-i", source)]
    return _ffmpeg(*inputs, "-filter_complex", f"concat=n={len(sources)}:v=0:a=1", "-ar", 16000, "-ac", 1, target)


def _ffmpeg(*arguments: object) -> Path:
    subprocess.run([find_ffmpeg().path, "-v", "error", "-nostdin", "-y", *map(str, arguments)], check=True)
    return Path(str(arguments[-1]))


@contextmanager
def service(**settings: Any) -> Iterator[Client]:
    """Start a service for one measurement; yields its client."""
    with local_service(**settings) as running, Client(running.url) as client:
        yield client


@contextmanager
def local_service(**settings: Any) -> Iterator[LocalService]:
    """Start a service for one measurement."""
    with TemporaryDirectory(prefix="murmur-bench-") as data_dir:
        values = {"data_dir": data_dir, "port": free_port(), "dashboard_port": free_port(), **settings}
        with LocalService(Settings.model_validate(values)) as running:
            yield running


def free_port() -> int:
    """Find a free loopback port."""
    # Outside of the ephemeral ports (above 32768 on Linux) and of those of Ray's workers (10002 to 19999).
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table with machine, commit and command."""
    echo(f"\n### {title}\n")
    markdown(head, rows)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    words = [f"benchmarks.{Path(sys.argv[0]).stem}", *(Path(argument).name for argument in sys.argv[1:])]
    machine = f"{_processor()}, {cores} cores, Python {platform.python_version()}"
    echo(f"\n{machine}; commit {_commit()}; `python -m {' '.join(words)}`")


def markdown(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    for row in (head, ["---"] * len(head), *rows):
        echo("| " + " | ".join(map(str, row)) + " |")


def echo(line: str) -> None:
    print(line, flush=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
