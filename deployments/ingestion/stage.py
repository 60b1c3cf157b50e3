"""A URL → a stored source."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from deployments.ingestion.buckets import Buckets
from deployments.ingestion.safe_http import SafeHttp
from deployments.messages import FetchRequest, StoredSource
from deployments.storage.artifacts import Artifacts


class Ingestion:
    """Fetches over `http`, or from `buckets`, into the artifacts, a megabyte in memory at a time."""

    def __init__(self, artifacts: Artifacts, http: SafeHttp, buckets: Buckets) -> None:
        self._artifacts = artifacts
        self._http = http
        self._buckets = buckets

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """Make sure that the source is stored; one that is stays as it is. Raises SourceForbidden, SourceNotFound,
        SourceTooLarge, SourceUnreachable."""
        size = await asyncio.to_thread(self._artifacts.size, request.key)
        if size is not None:
            return StoredSource(request.key, size, await asyncio.to_thread(self._digest, request.key))
        digest = hashlib.sha256()
        async with self._body(request) as body:
            with self._artifacts.writer(request.key) as writer:
                async for chunk in body:
                    await asyncio.to_thread(writer.write, chunk)
                    digest.update(chunk)
        return StoredSource(request.key, writer.size, digest.hexdigest())

    @asynccontextmanager
    async def _body(self, request: FetchRequest) -> AsyncIterator[AsyncIterator[bytes]]:
        if urlsplit(request.url).scheme not in ("http", "https"):
            read = self._buckets.own if request.drive else self._buckets.read
            yield _in_threads(read(request.url, request.max_bytes))
            return
        async with self._http.get(request.url, request.max_bytes, request.user_agent) as body:
            yield body

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._artifacts.chunks(key):
            digest.update(chunk)
        return digest.hexdigest()


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk
