"""class Attempt: the work on a claimed job, from its source to its transcript."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager

from deployments.errors import SourceNotFound, StorageUnavailable
from deployments.messages import FetchRequest
from deployments.storage.artifacts import Artifacts
from serve_app.errors import StoreUnavailable
from serve_app.jobs.event_stream import segments_of
from serve_app.jobs.transcript_file import StoredTranscript, write_transcript
from serve_app.models.job import Job, Phase
from serve_app.models.storage_paths import transcript_key
from serve_app.runner.lease import Lease, LeaseLost
from serve_app.runner.patience import Patience
from serve_app.runner.pipeline import Pipeline
from serve_app.runner.stages import Stages
from serve_app.store.redis_store import Store

log = logging.getLogger(__name__)

PARTIAL_S = 20.0


class SegmentsMissing(Exception):
    """The event stream holds fewer or more segments than were committed."""


class Attempt:
    """Work under one claim."""

    def __init__(
        self,
        store: Store,
        stages: Stages,
        artifacts: Artifacts,
        lease: Lease,
        patience: Patience,
        *,
        max_audio_s: float,
        max_source_bytes: int,
        windows: int,
    ) -> None:
        self._store = store
        self._stages = stages
        self._artifacts = artifacts
        self._lease = lease
        self._patience = patience
        self._max_audio_s = max_audio_s
        self._max_source_bytes = max_source_bytes
        self._windows = windows

    async def run(self, downloading: Callable[[Job], AbstractContextManager[None]]) -> None:
        """Complete the job. A download runs inside `downloading`, which may refuse it."""
        job = await self._lease.job()
        if job is None:
            raise LeaseLost
        size = await self._stored_size(job)
        if size is None:
            if job.spec.url is None:
                raise SourceNotFound("The uploaded file is no longer there: send it again.")
            with downloading(job):
                size = await self._fetch(job, job.spec.url)
        if job.spec.file is not None and job.file is not None and job.file.size is None:
            await self._lease.file_stored(job.spec.file, size)
        if job.spec.private:
            await self._lease.delete_url(job)
        await self._lease.enter(Phase.TRANSCODING)
        pipeline = Pipeline(
            self._lease,
            self._stages,
            self._artifacts,
            self._patience,
            job,
            max_audio_s=self._max_audio_s,
            in_flight=self._windows,
        )
        duration_s = await pipeline.run()
        # Checks the lease before the transcript is written: a worker that was suspended must not store a stale one.
        await self._lease.note_audio(done_s=duration_s)
        stored = await self._write(job, duration_s)
        if stored.segments != pipeline.segments:
            log.error(
                "job_id=%s %d segments were committed and %d are in the event stream, starting over",
                job.id,
                pipeline.segments,
                stored.segments,
            )
            await self._lease.restart()
            raise SegmentsMissing
        await self._lease.finish(Phase.COMPLETED, language=stored.language)

    async def write_partial(self) -> bool:
        """Store the transcript of a job that ends early. False if there is none; the event stream then keeps the text."""
        try:
            job = await self._lease.job()
            if job is None or not job.checkpoint.segments:
                return False
            async with asyncio.timeout(PARTIAL_S):  # a cancel waits for it
                await self._write(job, job.audio_done_s, insist=False)
        except (StorageUnavailable, StoreUnavailable, TimeoutError) as error:
            why = error or "too slow"
            log.warning("job_id=%s partial transcript not stored, its events are kept: %s", self._lease.claim.job_id, why)
            return False
        return True

    async def _write(self, job: Job, duration_s: float, *, insist: bool = True) -> StoredTranscript:
        key = transcript_key(job.id, self._lease.claim.token)

        async def write() -> StoredTranscript:
            return await write_transcript(self._artifacts, key, segments_of(self._store, job.id), duration_s)

        return await self._patience.insist(write, job.id, "transcript", storing=True) if insist else await write()

    async def _stored_size(self, job: Job) -> int | None:
        async def size() -> int | None:
            return await self._artifacts.threads.run(self._artifacts.size, job.source)

        return await self._patience.insist(size, job.id, "source")

    async def _fetch(self, job: Job, url: str) -> int:
        spec = job.spec
        request = FetchRequest(url, job.source, self._max_source_bytes, spec.user_agent, spec.drive_root, job.tenant)
        stored = await self._patience.insist(lambda: self._stages.fetch(request), job.id, "download", storing=True)
        return stored.size
