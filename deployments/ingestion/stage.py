"""Ingestion stage: URL → stored source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts


class Ingestion:
    """Streams sources over HTTP or from buckets into the artifacts."""

    def __init__(self, artifacts: Artifacts, http: SafeHttp, buckets: Buckets) -> None:
        self._artifacts = artifacts
        self._http = http
        self._buckets = buckets

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """Store a source, unless it is stored already. Raises SourceForbidden, SourceNotFound, SourceTooLarge,
        SourceUnreachable."""
        size = await asyncio.to_thread(self._artifacts.size, request.key)
        if size is not None:
            return StoredSource(request.key, size)
        async with self._body(request) as body:
            with self._artifacts.writer(request.key) as writer:
                async for chunk in body:
                    await asyncio.to_thread(writer.write, chunk)
        return StoredSource(request.key, writer.size)

    @asynccontextmanager
    async def _body(self, request: FetchRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        if urlsplit(request.url).scheme not in ("http", "https"):
            yield _in_threads(self._buckets.read(request))
            return
        async with self._http.get(request.url, request.max_bytes, request.user_agent) as body:
            yield body


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
