"""Ingestion stage: URL → stored source."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

from deployments.health import Clock, Watch
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts
from deployments.storage.threads import StorageThreads

STALLED_S = 900.0  # between two chunks, the time for storing one included


class Ingestion:
    """Streams sources over HTTP or from buckets into the artifacts."""

    def __init__(self, artifacts: Artifacts, http: SafeHttp, buckets: Buckets, clock: Clock = time.monotonic) -> None:
        self._artifacts = artifacts
        self._http = http
        self._buckets = buckets
        self._bucket_threads = StorageThreads()  # a bucket that is slow takes no thread from the storage
        self._watch = Watch(clock)

    async def check_health(self) -> None:
        """Raise Stalled if a download makes no progress."""
        self._watch.check()

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """Store a source, unless it is stored already. Raises SourceForbidden, SourceNotFound, SourceTooLarge,
        SourceUnreachable, StorageUnavailable."""
        threads = self._artifacts.threads
        # What is stored is whole: it appeared under its key only when all of it was there.
        size = await threads.run(self._artifacts.size, request.key)
        if size is not None:
            return StoredSource(request.key, size)
        with self._watch.within(STALLED_S, "a download") as deadline:
            await threads.run(self._artifacts.require_space)
            writing = threads.entered(self._artifacts.writer(request.key, incoming=True))
            async with self._body(request) as body, writing as writer:
                async for chunk in body:
                    await threads.run(writer.write, chunk)
                    deadline.progress()
        return StoredSource(request.key, writer.size)

    @asynccontextmanager
    async def _body(self, request: FetchRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        if urlsplit(request.url).scheme not in ("http", "https"):
            async with aclosing(self._bucket_threads.iterate(self._buckets.read(request))) as chunks:
                yield chunks
            return
        async with self._http.get(request.url, request.max_bytes, request.user_agent, request.tenant) as body:
            yield body
