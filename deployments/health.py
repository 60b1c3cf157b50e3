"""Deadlines of a stage's work, for Serve's health checks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Clock = Callable[[], float]

# Time that a batch may take: a multiple of what the ones before took for as much audio, but not less than the first
# number. The second is for the first batches, which load kernels and weights.
LEAST_S, UNKNOWN_S, TIMES_USUAL = 120.0, 900.0, 20.0
SMOOTHING = 0.2


class Stalled(RuntimeError):
    """Work has passed its deadline."""


@dataclass(eq=False, slots=True)
class Deadline:
    """Deadline of a piece of work."""

    work: str
    seconds: float
    clock: Clock
    ends: float = 0.0

    def progress(self) -> None:
        self.ends = self.clock() + self.seconds

    @contextmanager
    def suspended(self) -> Iterator[None]:
        # Nothing is due inside: somebody else is waited for.
        self.ends = float("inf")
        try:
            yield
        finally:
            self.progress()


class Watch:
    """All deadlines."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: set[Deadline] = set()

    @contextmanager
    def within(self, seconds: float, work: str) -> Iterator[Deadline]:
        """Expect the end or `progress`."""
        deadline = Deadline(work, seconds, self._clock)
        deadline.progress()
        self._deadlines.add(deadline)
        try:
            yield deadline
        finally:
            self._deadlines.discard(deadline)

    def check(self) -> None:
        """Raise Stalled past a deadline."""
        now = self._clock()
        for deadline in self._deadlines:
            if now > deadline.ends:
                raise Stalled(f"{deadline.work} has made no progress for {deadline.seconds:.0f} s: the replica is replaced")


class Pace:
    """Seconds that a second of audio takes, measured."""

    def __init__(self) -> None:
        self._pace: float | None = None
        self._warm = False

    def measured(self, audio_s: float, seconds: float) -> None:
        if not self._warm:  # the first batch loads kernels
            self._warm = True
            return
        pace = seconds / max(audio_s, 1.0)
        self._pace = pace if self._pace is None else (1 - SMOOTHING) * self._pace + SMOOTHING * pace

    def limit_s(self, audio_s: float) -> float:
        """Deadline of a batch."""
        if self._pace is None:
            return max(UNKNOWN_S, TIMES_USUAL * audio_s)
        return max(LEAST_S, TIMES_USUAL * self._pace * audio_s)
