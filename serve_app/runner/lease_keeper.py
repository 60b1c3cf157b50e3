"""class LeaseKeeper: renews leases from a thread of its own, whatever the event loop of the jobs does."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from serve_app.errors import StoreUnavailable
from serve_app.models.lease import Claim, LeaseState
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

AWAY_PAUSE_S = 0.5  # while Redis is away: leases are renewed before a sweeper elsewhere finds them expired
STUCK_S = 600.0  # an event loop that has not run for so long is not coming back: its jobs go to other Runners
JOIN_S = 2.0


class LeaseKeeper:
    """Thread with an event loop and Redis connections of its own."""

    def __init__(self, store: Store, on_state: Callable[[Claim, LeaseState], None], stuck_s: float = STUCK_S) -> None:
        self._store = store
        self._on_state = on_state  # called in the loop of the jobs, unless the lease is simply held
        self._stuck_s = stuck_s
        self._claims: set[Claim] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_ran_at = 0.0

    @property
    def healthy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop_ran_at = time.monotonic()
        self._stopping.clear()
        self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        thread, self._thread = self._thread, None
        self._stopping.set()
        if thread:
            await asyncio.to_thread(thread.join, JOIN_S)

    def hold(self, claim: Claim) -> None:
        with self._lock:
            self._claims.add(claim)

    def release(self, claim: Claim) -> None:
        with self._lock:
            self._claims.discard(claim)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            store = self._store.reopen()
            period_s = store.leases.lease_s / 3
            pause_s = period_s
            while not self._stopping.wait(pause_s):
                renewed = self._loop_runs() and runner.run(self._renew_all(store, period_s))
                pause_s = period_s if renewed else min(AWAY_PAUSE_S, period_s)
            runner.run(self._close(store))

    def _loop_runs(self) -> bool:
        loop = self._loop
        if loop is None or loop.is_closed():
            return False
        loop.call_soon_threadsafe(self._note_loop)
        if time.monotonic() - self._loop_ran_at <= self._stuck_s:
            return True
        log.error("event loop has not run for %.0f s, leases are left to expire", time.monotonic() - self._loop_ran_at)
        return False

    def _note_loop(self) -> None:
        self._loop_ran_at = time.monotonic()

    async def _renew_all(self, store: Store, limit_s: float) -> bool:
        """False if Redis did not answer for one of them."""
        with self._lock:
            claims = tuple(self._claims)
        replies = await asyncio.gather(*(self._renew(store, claim, limit_s) for claim in claims))
        return all(replies)

    async def _renew(self, store: Store, claim: Claim, limit_s: float) -> bool:
        try:
            async with asyncio.timeout(limit_s):
                state = await store.leases.renew(claim)
        except (StoreUnavailable, TimeoutError) as outage:
            log.warning("job_id=%s lease renewal failed, retrying: %s", claim.job_id, outage or "no reply")
            return False
        except Exception:  # one job's trouble must not cost the others their leases
            log.exception("job_id=%s lease renewal failed, retrying", claim.job_id)
            return False
        if state is not LeaseState.HELD and self._loop:
            self._loop.call_soon_threadsafe(self._report, claim, state)
        return True

    def _report(self, claim: Claim, state: LeaseState) -> None:
        with self._lock:
            held = claim in self._claims
        if held:
            self._on_state(claim, state)

    @staticmethod
    async def _close(store: Store) -> None:
        try:
            async with asyncio.timeout(JOIN_S):
                await store.close()
        except (StoreUnavailable, TimeoutError):  # the connections go with the thread
            pass
