"""Sandbox of ffmpeg: the command that starts it in there, and what this system enforces of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
MEMORY_BYTES, OPEN_FILES = 2 << 30, 32
NETWORK_SINCE = 4  # version of Landlock


@dataclass(frozen=True, slots=True)
class Enforcement:
    """Parts of the sandbox that the kernel enforces, beside rlimits."""

    landlock: int  # version, 0 for none
    seccomp: bool

    @property
    def missing(self) -> str:
        """Name what a decoder that was taken over could still do; empty for nothing."""
        gaps = []
        if not self.landlock:
            gaps.append("read files")
        if not self.seccomp:
            gaps.append("signal processes" if self.landlock >= NETWORK_SINCE else "use the network and signal processes")
            gaps += [] if self.landlock else ["change files"]
        return " and ".join(gaps)


def caged(command: Sequence[str], cpu_s: int) -> list[str]:
    """Command line that runs `command`, whose program is a path, in the sandbox."""
    # Isolated and without `site`: nothing of the environment or of a user's folders is imported.
    launcher = [sys.executable, "-I", "-S", "-B", str(LAUNCHER)]
    return [*launcher, str(cpu_s), str(MEMORY_BYTES), str(OPEN_FILES), *command]


@cache
def enforcement() -> Enforcement:
    """Try the sandbox on a process of its own."""
    command = [sys.executable, "-I", "-S", "-B", str(LAUNCHER), "--report"]
    try:
        report = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        return Enforcement(int(report[0]), report[1] == "1")
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return Enforcement(0, seccomp=False)
