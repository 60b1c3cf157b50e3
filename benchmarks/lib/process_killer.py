"""Fault injection: `kill -9` on random descendants of this process."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import psutil

from benchmarks.lib.background import in_background
from benchmarks.lib.harness import echo

REPLICAS = ("Transcriber", "Runner", "Ingress", "Transcoder")
DECODER, SERVER = "ffmpeg", "valkey-server"
KINDS = (*REPLICAS, DECODER, SERVER)

POLL_S = 0.05  # an ffmpeg lives for a second or less
WAIT_S = 10.0  # a kind that has no process for so long is killed later
MAX_PAUSE_S = 2.0  # before a kill that is due
LAST_KILL_PROGRESS = 0.75  # the last kill too must hit work


class ProcessKiller:
    """Kills `kills` processes, each kind at least once, spread over a `progress` from 0 to 1."""

    def __init__(self, kills: int, seed: int, progress: Callable[[], float]) -> None:
        self._random = random.Random(seed)
        kinds = self._random.sample(KINDS, len(KINDS)) + self._random.choices(KINDS, k=max(0, kills - len(KINDS)))
        self._queue = deque(kinds[:kills])
        self._step = LAST_KILL_PROGRESS / max(1, kills)
        self._progress = progress
        self._stop = threading.Event()
        self.killed: Counter[str] = Counter()

    def running(self) -> AbstractContextManager[None]:
        """Kill in a background thread."""
        return in_background("killer", self._run, self._stop)

    def _run(self) -> None:
        began = time.monotonic()
        while self._queue and self._wait_until_due():
            kind = self._queue.popleft()
            if pid := self._kill(kind):
                self.killed[kind] += 1
                echo(f"{time.monotonic() - began:6.1f} s, {self._progress():4.0%} done: killed {kind} {pid}")
            else:
                self._queue.append(kind)

    def _wait_until_due(self) -> bool:
        """Wait for the next kill's time; False when stopped."""
        while self._progress() < self.killed.total() * self._step:
            if self._stop.wait(POLL_S):
                return False
        return not self._stop.wait(self._random.uniform(0, MAX_PAUSE_S))

    def _kill(self, kind: str) -> int | None:
        """Kill a process of a kind; its process id."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            if candidates := descendants(kind):
                victim = self._random.choice(candidates)
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                    return victim.pid
            if self._stop.wait(POLL_S):
                break
        return None


def descendants(kind: str) -> list[psutil.Process]:
    return [process for process in psutil.Process().children(recursive=True) if _is(process, kind)]


def _is(process: psutil.Process, kind: str) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()  # empty for a zombie
        if kind in REPLICAS:
            title = words[0].split(".")[0] if words else ""
            return title == f"ray::ServeReplica:murmuration:{kind}"
        # `ffmpeg -version` is no decoder.
        return bool(words) and process.name().startswith(kind) and (kind != DECODER or "fd:" in words)
    return False
