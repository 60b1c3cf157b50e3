"""Artifacts, transcript and summary of a job."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from batching.types import SAMPLE_RATE, Transcript
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import SAMPLE_BYTES, WAV_HEADER_BYTES, wav_chunks
from serve_app.errors import RequestError
from serve_app.jobs.audit import audit
from serve_app.jobs.transcript_cache import TranscriptCache
from serve_app.models.job import Job, Phase, SummaryState
from serve_app.models.storage_paths import (
    AUDIO,
    LISTENING,
    SOURCE,
    TRANSCRIPT,
    pcm_prefix,
    summary_key,
    transcript_key,
)

# Sizes of files, for clients that poll and for lists: how many are kept, and for how long.
CACHED_SIZES, CACHED_S = 20_000, 60.0


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that clients can fetch."""

    name: str
    key: str  # in storage; of AUDIO, the prefix of its PCM parts
    content_type: str
    size: int
    channels: int | None = None  # of AUDIO: channels that were transcribed separately


@dataclass(frozen=True, slots=True)
class TranscriptSoFar:
    transcript: Transcript
    partial: bool  # the recording goes on after it
    final: bool  # the job has ended


class Results:
    """Reader of results; callers check who may read them."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._transcripts = TranscriptCache(artifacts)
        self._sizes: OrderedDict[str, tuple[int, float]] = OrderedDict()  # key -> (bytes, monotonic time)

    async def transcript(self, job: Job, *, audited: bool = True) -> Transcript:
        """Transcript of a completed job. Raises RequestError `conflict`."""
        return await self.stored_transcript(replace(job, transcript=None) if job.partial else job, audited=audited)

    async def stored_transcript(self, job: Job, *, audited: bool = True) -> Transcript:
        """Transcript of an ended job, partial unless it is completed. Raises RequestError `conflict`."""
        if job.transcript is None:
            state = "has failed" if job.phase is Phase.FAILED else f"is {job.phase}"
            raise RequestError("conflict", f"There is no transcript: the job {state}.")
        if audited:  # a caller receives it
            audit("job.read", job.id)
        try:
            return await self._transcripts.get(transcript_key(job.id, job.transcript))
        except FileNotFoundError:  # purged meanwhile
            raise _missing() from None

    async def transcript_or_none(self, job: Job) -> Transcript | None:
        return None if job.transcript is None or job.partial else await self.transcript(job)

    async def files(self, job: Job) -> list[Artifact]:
        """Artifacts that exist now."""
        if (job.spec.url is not None and job.started_at is None) or job.purged_at is not None:
            return []  # not fetched yet, or no longer there
        stored = []
        if not job.spec.private and not job.source_withheld and not job.audio_gone:
            stored.append((SOURCE, job.source, "application/octet-stream"))
        if job.spec.file is not None or (job.spec.listening and not job.spec.private):
            # Another job of the same file may have made it.
            stored.append((LISTENING, job.listening, "audio/mpeg"))
        if job.transcript is not None:
            stored.append((TRANSCRIPT, transcript_key(job.id, job.transcript), "application/x-ndjson"))
        sizes = await asyncio.gather(*(self._size(key) for _, key, _ in stored))
        files = [Artifact(*entry, size) for entry, size in zip(stored, sizes, strict=True) if size is not None]
        if files and (audio := self.audio(job)):
            files.append(audio)
        return files

    async def _size(self, key: str) -> int | None:
        # Files are written once. One that is missing may come yet, and one that is there may be deleted.
        size, seen = self._sizes.get(key, (None, 0.0))
        if size is not None and time.monotonic() - seen < CACHED_S:
            return size
        size = await self._artifacts.threads.run(self._artifacts.size, key)
        self._sizes.pop(key, None)
        if size is not None:
            self._sizes[key] = size, time.monotonic()
            if len(self._sizes) > CACHED_SIZES:
                self._sizes.popitem(last=False)
        return size

    @staticmethod
    def audio(job: Job) -> Artifact | None:
        """Decoded audio of a completed job as 16 kHz WAV."""
        if job.transcript is None or job.partial or job.audio_total_s is None or job.spec.private or job.audio_gone:
            return None
        size = WAV_HEADER_BYTES + round(job.audio_total_s * SAMPLE_RATE) * SAMPLE_BYTES * (job.audio_channels or 1)
        return Artifact(AUDIO, pcm_prefix(job.id), "audio/wav", size, job.audio_channels)

    async def file(self, job: Job, name: str) -> Artifact:
        """Raises RequestError `not_found`, `forbidden` for a source that is withheld, `gone` for deleted audio."""
        if name == SOURCE and job.source_withheld:
            message = "The source was read with the service's own credentials, so it is not handed out: use audio.wav."
            raise RequestError("forbidden", message)
        for file in await self.files(job):
            if file.name == name:
                audit("job.read", job.id)
                return file
        if job.audio_gone and name in (SOURCE, AUDIO):
            raise RequestError("gone", "The recording was deleted: only the results are kept.")
        raise RequestError("not_found", "The job has no such artifact.")

    async def summary(self, job: Job) -> str | None:
        if job.summary_state is not SummaryState.COMPLETED or job.purged_at is not None:
            return None
        try:
            return (await self._artifacts.threads.run(self._artifacts.read, summary_key(job.id))).decode()
        except FileNotFoundError:  # purged meanwhile
            return None

    async def open(self, file: Artifact, start: int, length: int) -> AsyncGenerator[bytes, None]:
        """Chunks of `length` bytes from `start`; the first is read already. Raises RequestError `not_found`."""
        chunks = self._artifacts.threads.iterate(self.content(file, start, length))
        try:
            first = await anext(chunks, b"")
        except FileNotFoundError:  # purged meanwhile
            raise _missing() from None
        return _continued(first, chunks)

    def content(self, file: Artifact, start: int, length: int) -> Iterator[bytes]:
        """Like `open`, in a thread."""
        if file.name == AUDIO:
            samples = (file.size - WAV_HEADER_BYTES) // (SAMPLE_BYTES * (file.channels or 1))
            return wav_chunks(self._artifacts, file.key, samples, start, length, file.channels)
        return self._artifacts.chunks(file.key, start, length)


def _missing() -> RequestError:
    return RequestError("not_found", "The file is no longer there: it was deleted.")


async def _continued(first: bytes, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(chunks):
        yield first
        async for chunk in chunks:
            yield chunk
