"""A URL → a stored source."""

from __future__ import annotations

import asyncio
import hashlib

from deployments.artifacts import Artifacts
from deployments.messages import FetchRequest, StoredSource
from deployments.safe_http import SafeHttp


class Ingestion:
    """Fetches over `http` into the artifacts, a megabyte in memory at a time."""

    def __init__(self, artifacts: Artifacts, http: SafeHttp) -> None:
        self._artifacts = artifacts
        self._http = http

    async def fetch(self, request: FetchRequest) -> StoredSource:
        """Make sure that the source is stored; one that is stays as it is. Raises SourceForbidden, SourceNotFound,
        SourceTooLarge, SourceUnreachable."""
        size = await asyncio.to_thread(self._artifacts.size, request.key)
        if size is not None:
            return StoredSource(request.key, size, await asyncio.to_thread(self._digest, request.key))
        digest = hashlib.sha256()
        async with self._http.get(request.url, request.max_bytes) as body:
            with self._artifacts.writer(request.key) as writer:
                async for chunk in body:
                    await asyncio.to_thread(writer.write, chunk)
                    digest.update(chunk)
        return StoredSource(request.key, writer.size, digest.hexdigest())

    def _digest(self, key: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._artifacts.chunks(key):
            digest.update(chunk)
        return digest.hexdigest()
