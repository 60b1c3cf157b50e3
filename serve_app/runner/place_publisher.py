"""class PlacePublisher: stores how far a job is committed, for the Transcoder that runs ahead of it."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from batching.types import SAMPLE_RATE, Window
from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import Artifacts
from deployments.storage.committed_place import CommittedPlace
from deployments.storage.threads import uninterrupted
from serve_app.runner.loops import every

log = logging.getLogger(__name__)

# Audio decoded before it is needed: 58 MB of PCM a channel, and seconds of work for the fastest model, in which a decode
# gets its turn among many. Most recordings are shorter: they are decoded at once.
AHEAD_S = 1800.0
REFRESH_S = 60.0  # sign of life for a decode that pauses, while the place does not move


class PlacePublisher:
    """Place before which all audio was received and is committed."""

    # Windows of separate channels come by their start: the earliest that is in flight bounds all channels. Without one,
    # as in a long silence, it is the end of what was decoded: a minute may be too far, as a window is handed out once its
    # part of PCM is stored.

    def __init__(self, artifacts: Artifacts, key: str, job_id: str, committed_s: float) -> None:
        self.key = key
        self.ahead_s = AHEAD_S
        self._artifacts = artifacts
        self._job_id = job_id
        self._place_s = committed_s
        self._stored_s = 0.0
        self._writes = 0
        self._received_s = 0.0
        self._starts: deque[float] = deque()  # of windows in flight
        self._moved = asyncio.Event()

    @asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """Store the place whenever it has moved, and now and then."""
        storing = asyncio.create_task(self._run())
        try:
            yield
        finally:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)

    def received(self, seconds: float) -> None:
        """All audio before `seconds` was received, and its windows dispatched."""
        self._received_s = max(self._received_s, seconds)
        self._update()

    def dispatched(self, window: Window) -> None:
        self._starts.append(window.start / SAMPLE_RATE)

    def committed(self) -> None:
        """The first window in flight is committed."""
        self._starts.popleft()
        self._update()

    def _update(self) -> None:
        self._place_s = max(self._place_s, min((self._received_s, *self._starts)))
        if self._place_s - self._stored_s > self.ahead_s / 4:
            self._moved.set()

    async def _run(self) -> None:
        if not self._place_s:  # most jobs end before anything has to be stored
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_S):
                    await self._moved.wait()
        await every(REFRESH_S, self._store, f"job_id={self._job_id} storing of the committed place", self._moved)

    async def _store(self) -> None:
        self._writes += 1
        place = CommittedPlace(self._place_s, self._writes)
        try:
            # Written to its end: the folder may be deleted after the job.
            await uninterrupted(self._artifacts.threads.run(place.store, self._artifacts, self.key))
        except StorageUnavailable as outage:
            log.warning("job_id=%s committed place not stored, trying again: %s", self._job_id, outage)
        else:
            self._stored_s = place.seconds
