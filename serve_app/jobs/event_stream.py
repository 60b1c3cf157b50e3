"""Follow a job's stream: from any event on, by any number of readers, over one subscription and a few reads a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import orjson

from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.stream_tail import StreamTail
from serve_app.jobs.transcript_file import replay
from serve_app.models.event import Event, EventKind, event_order
from serve_app.models.job import Job
from serve_app.models.storage_paths import transcript_key
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

RETRY_S = 0.5
"""How long after an outage of Redis it is asked again."""
POLL_S = 10.0
"""Streams are looked at this often unasked: a wake-up that was lost with a connection must not hang their readers."""
READS = 4
"""How many reads of streams go on at once, and so how many of the pool's connections readers take, however many they are."""


class EventStreams:
    """The streams of all jobs. `start` and `stop` it in the loop that reads."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self._tails: dict[str, StreamTail] = {}
        self._reading = asyncio.Semaphore(READS)
        self._hub: list[asyncio.Task[NoReturn]] = []

    async def start(self) -> None:
        """Begin to listen for streams that grow."""
        self._hub = [asyncio.create_task(loop) for loop in (self._listen(), self._poll())]

    async def stop(self) -> None:
        """Stop listening."""
        for task in self._hub:
            task.cancel()
        for task in self._hub:
            with suppress(asyncio.CancelledError):
                await task

    async def follow(self, job_id: str, after: str = "0") -> AsyncGenerator[Event, None]:
        """Every event after `after`, as they come, up to `done`. Ends too when the job is deleted."""
        with self._tail(job_id) as tail:
            while True:
                try:
                    look = await tail.look(after)
                except StoreUnavailable as outage:
                    log.warning("job_id=%s its readers wait: %s", job_id, outage)
                    await asyncio.sleep(RETRY_S)
                    continue
                for event in look.events:
                    yield event
                    after = event.id
                    if event.kind is EventKind.DONE:
                        return
                if look.events:
                    continue
                if look.job is None:
                    return
                if look.job.done_event and not look.kept:
                    async for event in self._recall(look.job, look.job.done_event, after):
                        yield event
                    return
                if look.job.done_event and event_order(after) >= event_order(look.job.done_event):
                    return
                await tail.grown()

    async def _recall(self, job: Job, done: str, after: str) -> AsyncGenerator[Event, None]:
        """What a stream that is no longer kept would tell: segments from the transcript, then the end."""
        if job.transcript is not None:
            kept = transcript_key(job.id, job.transcript)
            for event in await asyncio.to_thread(lambda: list(replay(self._artifacts, kept, after))):
                yield event
        if event_order(after) < event_order(done):
            told: dict[str, Any] = {"phase": job.phase}
            if job.error:
                told["error"] = {"code": job.error.code, "message": job.error.message}
            yield Event(done, EventKind.DONE, orjson.dumps(told).decode())

    @contextmanager
    def _tail(self, job_id: str) -> Iterator[StreamTail]:
        """The end of a job's stream, shared by its readers as long as there are any."""
        tail = self._tails.get(job_id)
        if tail is None or tail.ended:
            tail = self._tails[job_id] = StreamTail(self._store, job_id, self._reading)
        tail.readers += 1
        try:
            yield tail
        finally:
            tail.readers -= 1
            if not tail.readers and self._tails.get(job_id) is tail:
                del self._tails[job_id]

    async def _listen(self) -> NoReturn:
        while True:
            try:
                async with self._store.events.subscribe("wake") as grown:
                    self._wake_all()  # whatever was published meanwhile was missed
                    async for _, job_id in grown:
                        if tail := self._tails.get(job_id):
                            tail.grow()
            except StoreUnavailable as outage:
                log.warning("event stream interrupted: %s", outage)
                await asyncio.sleep(RETRY_S)

    async def _poll(self) -> NoReturn:
        while True:
            await asyncio.sleep(POLL_S)
            self._wake_all()

    def _wake_all(self) -> None:
        for tail in self._tails.values():
            tail.grow()


async def segments_of(store: Store, job_id: str) -> AsyncIterator[Event]:
    """The segments that a job's stream tells, in order."""
    after = "0"
    while events := await store.events.read(job_id, after):
        for event in events:
            if event.kind is EventKind.SEGMENT:
                yield event
        after = events[-1].id
