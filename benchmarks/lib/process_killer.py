"""kill -9 at random: on processes below this one, of kinds that a service must survive the death of, and on no others."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import psutil

from benchmarks.lib.harness import say

REPLICAS = ("Transcriber", "Runner", "Ingress", "Transcoder")
DECODER, SERVER = "ffmpeg", "valkey-server"
KINDS = (*REPLICAS, DECODER, SERVER)

LOOK_S = 0.05
"""A decoder lives for a second or less: it has to be caught."""
PATIENCE_S = 10.0
"""What is not there for so long is killed later."""
PAUSE_S = 2.0
"""Between two kills, at most, once the second is due."""
LAST = 0.75
"""Progress at which the last kill falls: there is work left for it to fall on."""


class Killer:
    """Kills `kills` processes, each kind at least once if there are enough, spread over the first part of a progress from
    0 to 1: so they fall on work whatever the speed of the machine."""

    def __init__(self, kills: int, seed: int, progress: Callable[[], float]) -> None:
        self._random = random.Random(seed)
        kinds = self._random.sample(KINDS, len(KINDS)) + self._random.choices(KINDS, k=max(0, kills - len(KINDS)))
        self._order = deque(kinds[:kills])
        self._step = LAST / max(1, kills)
        self._progress = progress
        self._over = threading.Event()
        self.killed: Counter[str] = Counter()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Kill meanwhile."""
        thread = threading.Thread(target=self._work, name="killer", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _work(self) -> None:
        began = time.monotonic()
        while self._order and self._until_due():
            kind = self._order.popleft()
            if pid := self._kill(kind):
                self.killed[kind] += 1
                say(f"{time.monotonic() - began:6.1f} s, {self._progress():4.0%} done: killed {kind} {pid}")
            else:
                self._order.append(kind)

    def _until_due(self) -> bool:
        """Wait for the next kill's time; False when it is all over."""
        while self._progress() < self.killed.total() * self._step:
            if self._over.wait(LOOK_S):
                return False
        return not self._over.wait(self._random.uniform(0, PAUSE_S))

    def _kill(self, kind: str) -> int | None:
        """Kill one of a kind, waiting for it for a while; its process id."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if found := victims(kind):
                victim = self._random.choice(found)
                with suppress(psutil.NoSuchProcess):
                    victim.kill()
                    return victim.pid
            if self._over.wait(LOOK_S):
                break
        return None


def victims(kind: str) -> list[psutil.Process]:
    """The processes of a kind that live below this one."""
    return [process for process in psutil.Process().children(recursive=True) if _is(process, kind)]


def _is(process: psutil.Process, kind: str) -> bool:
    with suppress(psutil.Error):
        words = process.cmdline()  # nothing for one that is dead and not yet buried
        if kind in REPLICAS:
            title = words[0].split(".")[0] if words else ""
            return title == f"ray::ServeReplica:murmuration:{kind}"
        # One that is asked for its version is no decoder.
        return bool(words) and process.name().startswith(kind) and (kind != DECODER or "fd:" in words)
    return False
