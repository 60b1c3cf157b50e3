"""class Downloads: places for sources that are being fetched, beside the slots of a Runner's jobs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
MAX_REFUSED = 10_000  # jobs whose refusals are counted


class Postponed(Exception):
    """The job goes back to the queue, at no cost."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__(f"postponed for {delay_s:.1f} s")
        self.delay_s = delay_s


class Downloads:
    """Places of one Runner; a tenant takes at most `per_tenant` of them (0 for all)."""

    def __init__(self, places: int, per_tenant: int) -> None:
        self._places = places
        self._per_tenant = per_tenant or places
        self._taken: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()  # by job id

    @property
    def running(self) -> int:
        return self._taken.total()

    @contextmanager
    def place(self, job_id: str, tenant: str) -> Iterator[None]:
        """Raises Postponed where no place is free, for longer each time."""
        if self.running >= self._places or self._taken[tenant] >= self._per_tenant:
            raise Postponed(self._delay_s(job_id))
        self._refusals.pop(job_id, None)
        self._taken[tenant] += 1
        try:
            yield
        finally:
            self._taken[tenant] -= 1
            if not self._taken[tenant]:
                del self._taken[tenant]

    def _delay_s(self, job_id: str) -> float:
        if len(self._refusals) >= MAX_REFUSED:
            self._refusals.clear()
        self._refusals[job_id] += 1
        return float(min(PAUSE_S * 2 ** (self._refusals[job_id] - 1), LONGEST_PAUSE_S)) * random.uniform(0.75, 1.25)
