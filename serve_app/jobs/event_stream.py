"""class EventStreams: fan-out of jobs' events from one subscription a process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import orjson

from batching.types import Transcript
from deployments.errors import StorageUnavailable
from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.stream_sessions import StreamSessions
from serve_app.jobs.stream_tail import StreamTail
from serve_app.jobs.transcript_file import replay, transcript_of
from serve_app.models.event import Event, EventKind, event_order
from serve_app.models.job import Job
from serve_app.models.principal import Principal
from serve_app.models.storage_paths import transcript_key
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

RETRY_S = 0.5
POLL_S = 10.0  # streams are read this often without a notification, which can be lost with a connection
READS = 4  # concurrent reads of all streams, and so the connections of the pool that readers take


class EventStreams:
    """Event streams of all jobs."""

    def __init__(self, store: Store, artifacts: Artifacts) -> None:
        self._store = store
        self._artifacts = artifacts
        self.sessions = StreamSessions(store.keys)
        self._tails: dict[str, StreamTail] = {}
        self._read_slots = asyncio.Semaphore(READS)
        self._background: list[asyncio.Task[NoReturn]] = []

    async def start(self) -> None:
        listening = self._store.events.listen("wake", "keys", on_message=self._notify, on_connect=self._notify_all)
        self._background = [asyncio.create_task(loop) for loop in (listening, self._poll(), self.sessions.run())]

    @property
    def healthy(self) -> bool:
        """Whether the background tasks run; they outlive an outage of Redis."""
        return not any(task.done() for task in self._background)

    async def stop(self) -> None:
        background, self._background = self._background, []
        for task in background:
            task.cancel()
        for task in background:
            with suppress(asyncio.CancelledError):
                await task

    async def follow(self, job_id: str, after: str = "0", principal: Principal | None = None) -> AsyncGenerator[Event, None]:
        """Events after the event id `after` as they come, up to `done` or a deletion. Raises RequestError when the
        principal's key, token or ticket ends."""
        with self._tail(job_id) as tail, self.sessions.open(principal) as session:
            while True:
                session.check()
                try:
                    page = await tail.read(after)
                except StoreUnavailable as outage:
                    log.warning("job_id=%s event read failed, retrying: %s", job_id, outage)
                    await asyncio.sleep(RETRY_S)
                    continue
                for event in page.events:
                    session.check()
                    yield event
                    after = event.id
                    if event.kind is EventKind.DONE:
                        return
                if page.events:
                    continue
                if page.job is None:
                    return
                if page.job.done_event and not page.stream_exists:
                    async for event in self._replay(page.job, page.job.done_event, after):
                        session.check()
                        yield event
                    return
                if page.job.done_event and event_order(after) >= event_order(page.job.done_event):
                    return
                await session.wait(tail.changed())

    async def _replay(self, job: Job, done_event: str, after: str) -> AsyncGenerator[Event, None]:
        # The stream is deleted: segments come from the transcript.
        if job.transcript is not None:
            for event in await self._replayed(job.id, transcript_key(job.id, job.transcript), after):
                yield event
        if event_order(after) < event_order(done_event):
            body: dict[str, Any] = {"phase": job.phase}
            if job.error:
                body["error"] = {"code": job.error.code, "message": job.error.message}
            yield Event(done_event, EventKind.DONE, orjson.dumps(body).decode())

    async def _replayed(self, job_id: str, key: str, after: str) -> list[Event]:
        while True:
            try:
                return await self._artifacts.threads.run(lambda: list(replay(self._artifacts, key, after)))
            except FileNotFoundError:  # purged meanwhile
                return []
            except StorageUnavailable as outage:
                log.warning("job_id=%s transcript read failed, retrying: %s", job_id, outage)
                await asyncio.sleep(RETRY_S)

    async def transcript_so_far(self, job: Job) -> Transcript:
        """Transcript of the segments that are in the stream."""
        events = [event async for event in segments_of(self._store, job.id)]
        return await asyncio.to_thread(transcript_of, events, job.audio_done_s)

    @contextmanager
    def _tail(self, job_id: str) -> Iterator[StreamTail]:
        # A tail exists as long as it has readers.
        tail = self._tails.get(job_id)
        if tail is None or tail.ended:
            tail = self._tails[job_id] = StreamTail(self._store, job_id, self._read_slots)
        tail.readers += 1
        try:
            yield tail
        finally:
            tail.readers -= 1
            if not tail.readers and self._tails.get(job_id) is tail:
                del self._tails[job_id]

    def _notify(self, channel: str, name: str) -> None:
        if channel == "keys":
            self.sessions.notify(name)
        elif tail := self._tails.get(name):
            tail.notify()

    def _notify_all(self) -> None:
        for tail in self._tails.values():
            tail.notify()

    async def _poll(self) -> NoReturn:
        while True:
            await asyncio.sleep(POLL_S)
            self._notify_all()


async def segments_of(store: Store, job_id: str) -> AsyncIterator[Event]:
    """Segment events of a job's stream, in order."""
    after = "0"
    while events := await store.events.read(job_id, after):
        for event in events:
            if event.kind is EventKind.SEGMENT:
                yield event
        after = events[-1].id
