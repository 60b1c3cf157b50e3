"""Follow a job's stream: from any event on, by any number of readers, over one subscription a process."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from deployments.artifacts import Artifacts
from serve_app.jobs.connection import OUTAGES
from serve_app.jobs.models import Event, EventKind, Job, transcript_key
from serve_app.jobs.store import Store
from serve_app.jobs.transcripts import order, replay

log = logging.getLogger(__name__)

RETRY_S = 0.5
"""How long after an outage of Redis it is asked again."""
POLL_S = 10.0
"""A reader looks for itself this often: a wake-up that was lost with a connection must not hang it."""


class Events:
    """The streams of all jobs. `start` and `stop` it in the loop that reads."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._readers: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._hub: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen for streams that grow."""
        self._hub = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        """Stop listening."""
        if self._hub:
            self._hub.cancel()
            with suppress(asyncio.CancelledError):
                await self._hub

    async def follow(self, job_id: str, after: str = "0") -> AsyncGenerator[Event, None]:
        """Every event after `after`, as they come, up to `done`. Ends too when the job is deleted."""
        with self._woken(job_id) as woken:
            while True:
                woken.clear()
                try:
                    events = await self._store.events(job_id, after)
                    job = None if events else await self._store.get(job_id)
                    kept = bool(events) or await self._store.has_events(job_id)
                except OUTAGES as outage:
                    log.warning("job_id=%s its readers wait: %s", job_id, outage)
                    await asyncio.sleep(RETRY_S)
                    continue
                for event in events:
                    yield event
                    after = event.id
                    if event.kind is EventKind.DONE:
                        return
                if events:
                    continue
                if job is None:
                    return
                if job.done_event and not kept:
                    async for event in self._recall(job, job.done_event, after):
                        yield event
                    return
                if job.done_event and order(after) >= order(job.done_event):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await woken.wait()

    async def _recall(self, job: Job, done: str, after: str) -> AsyncGenerator[Event, None]:
        """What a stream that is no longer kept would tell: segments from the transcript, then the end."""
        if job.transcript is not None:
            kept = transcript_key(job.id, job.transcript)
            for event in await asyncio.to_thread(lambda: list(replay(self._artifacts, kept, after))):
                yield event
        if order(after) < order(done):
            told: dict[str, Any] = {"phase": job.phase}
            if job.error:
                told["error"] = {"code": job.error.code, "message": job.error.message}
            yield Event(done, EventKind.DONE, orjson.dumps(told).decode())

    @contextmanager
    def _woken(self, job_id: str) -> Any:
        woken = asyncio.Event()
        self._readers[job_id].add(woken)
        try:
            yield woken
        finally:
            self._readers[job_id].discard(woken)
            if not self._readers[job_id]:
                del self._readers[job_id]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._store.listen("wake") as grown:
                    self._wake_all()
                    async for _, job_id in grown:
                        for woken in self._readers.get(job_id, ()):
                            woken.set()
            except OUTAGES as outage:
                log.warning("event stream interrupted: %s", outage)
                await asyncio.sleep(RETRY_S)

    def _wake_all(self) -> None:
        """After a new subscription: whatever was published meanwhile was missed."""
        for readers in self._readers.values():
            for woken in readers:
                woken.set()
