"""class FairTurns: a bounded number of turns at a resource, shared by tenants round robin."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class FairTurns:
    """Gives at most `limit` turns at once. Tenants that wait take turns, whatever the number of their waiters."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by tenant; the one that is due next comes first

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Wait for a turn and hold it."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(tenant)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, tenant: str) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(tenant, deque()).append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._pass_on()
            else:
                self._forget(tenant, granted)
            raise

    def _forget(self, tenant: str, granted: asyncio.Future[None]) -> None:
        queue = self._waiting.get(tenant, deque())
        with suppress(ValueError):
            queue.remove(granted)
        if not queue:
            self._waiting.pop(tenant, None)

    def _pass_on(self) -> None:
        """Give the turn to the next tenant that waits."""
        while self._waiting:
            tenant, queue = next(iter(self._waiting.items()))
            del self._waiting[tenant]
            granted = queue.popleft()
            if queue:
                self._waiting[tenant] = queue  # behind the others
            if not granted.done():  # else it was cancelled, and has not run since
                granted.set_result(None)
                return
        self._free += 1
