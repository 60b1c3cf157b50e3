"""class Patience: repeats a step while Redis, the storage or a deployment is away."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deployments.errors import StageUnavailable, StorageFull, StorageUnavailable
from serve_app.errors import StoreUnavailable

log = logging.getLogger(__name__)

PAUSE_S = 0.5  # the first pause; each later one is twice as long
LONGEST_PAUSES_S = {StoreUnavailable: 5.0, StageUnavailable: 5.0, StorageUnavailable: 60.0}
IN_PLACE_S = 300.0  # for longer than that the job goes back to the queue, and its slot to others
FULL_S = 90.0  # storage counts as full for so long after it said so: longer than a pause

T = TypeVar("T")


class Patience:
    """Shared by the jobs of a Runner."""

    def __init__(self) -> None:
        self.ending = False  # the Runner stops: nothing is waited out any more
        self._full_until = 0.0

    @property
    def storage_full(self) -> bool:
        """Whether the free space is below its floor, or a job has found the storage full and none has written since."""
        return time.monotonic() < self._full_until

    def found_full(self, error: StorageFull, for_s: float | None = None) -> None:
        """Claim no jobs for `for_s` (FULL_S)."""
        for_s = FULL_S if for_s is None else for_s
        if not self.storage_full:
            log.warning("storage is full, no jobs are claimed until there is space: %s", error)
        self._full_until = max(self._full_until, time.monotonic() + for_s)

    async def insist(
        self,
        step: Callable[[], Awaitable[T]],
        job_id: str,
        name: str,
        *,
        storing: bool = False,  # the step writes to the storage
        in_place_s: float | None = None,
    ) -> T:
        """Repeat a step through outages: of Redis without end, others for IN_PLACE_S."""
        in_place_s = IN_PLACE_S if in_place_s is None else in_place_s
        pause_s, since = PAUSE_S, time.monotonic()
        while True:
            began = time.monotonic()
            try:
                done = await step()
            except (StoreUnavailable, StorageUnavailable, StageUnavailable) as error:
                if isinstance(error, StorageFull):
                    self.found_full(error)
                if time.monotonic() - began > in_place_s:  # it got on for a while
                    pause_s, since = PAUSE_S, time.monotonic()
                forever = isinstance(error, StoreUnavailable)
                if self.ending or (not forever and time.monotonic() - since >= in_place_s):
                    raise
                pause_s = min(
                    pause_s, next(longest for kind, longest in LONGEST_PAUSES_S.items() if isinstance(error, kind))
                )
                away = type(error).__name__
                log.warning("job_id=%s %s failed (%s), retrying in %.1f s: %s", job_id, name, away, pause_s, error)
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.0))
                pause_s *= 2
            else:
                if storing:
                    self._full_until = 0.0
                return done
