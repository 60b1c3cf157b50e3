"""class RunAhead: pauses a decode that is too far ahead of what its consumer has committed."""

from __future__ import annotations

import asyncio
import logging

from deployments.errors import StageUnavailable, StorageUnavailable
from deployments.messages import TranscodeRequest
from deployments.storage.artifacts import Artifacts
from deployments.storage.committed_place import CommittedPlace

log = logging.getLogger(__name__)

POLL_S, LONGEST_POLL_S, POLL_GROWTH = 1.0, 5.0, 1.5
MESSAGE_S = 60.0  # a wait returns this often, far below the deadlines that watch a decode
# A consumer that has written nothing for so long is gone: it writes every minute. Ray does not end the streams of a caller
# that was killed, and one that pauses would stay for ever.
ABANDONED_S = 900.0


class RunAhead:
    """Bound on a decode's lead, in seconds of audio."""

    def __init__(self, artifacts: Artifacts, request: TranscodeRequest) -> None:
        self._artifacts = artifacts
        self._key = request.progress_key
        self._ahead_s = request.ahead_s
        self._place = CommittedPlace()
        self._pausing = False
        self._alive_at = 0.0  # loop time of the consumer's last sign of life

    async def room(self, decoded_s: float, share: float = 1.0) -> bool:
        """Wait, MESSAGE_S at most, until the lead is within a `share` of the bound. Raises StageUnavailable."""
        if self._ahead_s is None or self._key is None:
            return True
        loop, poll_s = asyncio.get_running_loop(), POLL_S
        since = loop.time()
        while decoded_s - self._place.seconds > share * self._ahead_s:
            if not self._pausing:
                self._pausing, self._alive_at = True, loop.time()
            if await self._moved(self._key):
                continue
            if loop.time() - self._alive_at > ABANDONED_S:
                log.warning("%s has not been written for %.0f s, ending the decode", self._key, ABANDONED_S)
                raise StageUnavailable("The decode was ended, as nothing seemed to use it: try it again.")
            if loop.time() - since > MESSAGE_S:
                return False
            await asyncio.sleep(poll_s)
            poll_s = min(poll_s * POLL_GROWTH, LONGEST_POLL_S)
        self._pausing = False
        return True

    async def _moved(self, key: str) -> bool:
        loop = asyncio.get_running_loop()
        try:
            place = await self._artifacts.threads.run(CommittedPlace.load, self._artifacts, key)
        except StorageUnavailable as outage:
            log.warning("%s cannot be read, the decode pauses on: %s", key, outage)
            self._alive_at = loop.time()  # not known
            return False
        before, self._place = self._place, place
        if place != before:
            self._alive_at = loop.time()
        return place.seconds != before.seconds
