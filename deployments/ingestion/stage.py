"""Ingestion stage: URL → stored source."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from deployments.health import Clock, Watch
from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts

STALLED_S = 900.0  # between two chunks, the time for storing one included


class Ingestion:
    """Streams sources over HTTP or from buckets into the artifacts."""

    def __init__(self, artifacts: Artifacts, http: SafeHttp, buckets: Buckets, clock: Clock = time.monotonic) -> None:
        self._artifacts = artifacts
        self._http = http
        self._buckets = buckets
        self._watch = Watch(clock)

    async def check_health(self) -> None:
        """Raise Stalled if a download makes no progress."""
        self._watch.check()

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """Store a source, unless it is stored already. Raises SourceForbidden, SourceNotFound, SourceTooLarge,
        SourceUnreachable."""
        size = await asyncio.to_thread(self._artifacts.size, request.key)
        if size is not None:
            return StoredSource(request.key, size)
        with self._watch.within(STALLED_S, "a download") as deadline:
            async with self._body(request) as body:
                with self._artifacts.writer(request.key) as writer:
                    async for chunk in body:
                        await asyncio.to_thread(writer.write, chunk)
                        deadline.progress()
        return StoredSource(request.key, writer.size)

    @asynccontextmanager
    async def _body(self, request: FetchRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        if urlsplit(request.url).scheme not in ("http", "https"):
            read = self._buckets.read_drive if request.drive else self._buckets.read
            yield _in_threads(read(request.url, request.max_bytes))
            return
        async with self._http.get(request.url, request.max_bytes, request.user_agent, request.tenant) as body:
            yield body


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
