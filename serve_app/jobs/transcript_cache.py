"""class TranscriptCache: parsed transcripts of clients that poll, bounded by the memory that they take."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from batching.types import Transcript
from deployments.storage.artifacts import Artifacts
from serve_app.jobs.transcript_file import read_transcript

PART_BYTES = 256  # memory of a segment or a word: an object, a text and three numbers
CACHED_BYTES = 96 << 20  # 24 hours with words are 65 MB


class TranscriptCache:
    """Reads each transcript once while it is in use, however many ask for it at the same time."""

    def __init__(self, artifacts: Artifacts, max_bytes: int = CACHED_BYTES) -> None:
        self._artifacts = artifacts
        self._max_bytes = max_bytes
        self._entries: OrderedDict[str, tuple[Transcript, int]] = OrderedDict()  # with their memory, in bytes
        self._bytes = 0
        self._reading: dict[str, asyncio.Task[Transcript]] = {}

    async def get(self, key: str) -> Transcript:
        """Raises FileNotFoundError, StorageUnavailable."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key][0]
        if key not in self._reading:
            self._reading[key] = asyncio.create_task(self._read(key))
        # One client that hangs up does not stop the reading of others.
        return await asyncio.shield(self._reading[key])

    async def _read(self, key: str) -> Transcript:
        try:
            transcript = await self._artifacts.threads.run(read_transcript, self._artifacts, key)
        finally:
            del self._reading[key]
        self._keep(key, transcript)
        return transcript

    def _keep(self, key: str, transcript: Transcript) -> None:
        size = PART_BYTES * sum(1 + len(segment.words or ()) for segment in transcript.segments)
        if size > self._max_bytes:
            return
        self._entries[key] = transcript, size
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, oldest) = self._entries.popitem(last=False)
            self._bytes -= oldest
