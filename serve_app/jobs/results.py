"""Artifacts, transcript and summary of a job."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from batching.types import SAMPLE_RATE, Transcript
from deployments.storage.artifacts import Artifacts
from deployments.storage.pcm import SAMPLE_BYTES, WAV_HEADER_BYTES, wav_chunks
from serve_app.errors import RequestError, not_found
from serve_app.jobs.transcript_file import read_transcript
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

# Cache of transcripts, for clients that poll: how many, and the most segments and words of each.
CACHED, CACHED_PARTS = 32, 4000


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that clients can fetch."""

    name: str
    key: str  # in storage; of AUDIO, the prefix of its PCM parts
    content_type: str
    size: int
    channels: int | None = None  # of AUDIO: channels that were transcribed separately


class Results:
    """Reader of results; callers check who may read them."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._cache: OrderedDict[str, Transcript] = OrderedDict()

    async def transcript(self, job: Job) -> Transcript:
        """Transcript of a completed job. Raises RequestError `conflict`."""
        if job.transcript is None:
            state = "has failed" if job.phase is Phase.FAILED else f"is {job.phase}"
            raise RequestError("conflict", f"There is no transcript: the job {state}.")
        key = transcript_key(job.id, job.transcript)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        try:
            transcript = await asyncio.to_thread(read_transcript, self._artifacts, key)
        except FileNotFoundError:  # purged meanwhile
            raise not_found() from None
        if sum(1 + len(segment.words or ()) for segment in transcript.segments) <= CACHED_PARTS:
            self._cache[key] = transcript
            if len(self._cache) > CACHED:
                self._cache.popitem(last=False)
        return transcript

    async def transcript_or_none(self, job: Job) -> Transcript | None:
        return None if job.transcript is None else await self.transcript(job)

    async def files(self, job: Job) -> list[Artifact]:
        """Artifacts that exist now."""
        if job.spec.url is not None and job.started_at is None:
            return []  # not fetched yet
        stored = []
        if not job.spec.private and not job.source_withheld:
            stored.append((SOURCE, job.source, "application/octet-stream"))
        if job.spec.file is not None or (job.spec.listening and not job.spec.private):
            # Another job of the same file may have made it.
            stored.append((LISTENING, job.listening, "audio/mpeg"))
        if job.transcript is not None:
            stored.append((TRANSCRIPT, transcript_key(job.id, job.transcript), "application/x-ndjson"))
        sizes = await asyncio.to_thread(lambda: [self._artifacts.size(key) for _, key, _ in stored])
        files = [Artifact(*entry, size) for entry, size in zip(stored, sizes, strict=True) if size is not None]
        if files and (audio := self.audio(job)):
            files.append(audio)
        return files

    @staticmethod
    def audio(job: Job) -> Artifact | None:
        """Decoded audio of a completed job as 16 kHz WAV."""
        if job.transcript is None or job.audio_total_s is None or job.spec.private:
            return None
        size = WAV_HEADER_BYTES + round(job.audio_total_s * SAMPLE_RATE) * SAMPLE_BYTES * (job.audio_channels or 1)
        return Artifact(AUDIO, pcm_prefix(job.id), "audio/wav", size, job.audio_channels)

    async def file(self, job: Job, name: str) -> Artifact:
        """Raises RequestError `not_found`, and `forbidden` for a source that is withheld."""
        if name == SOURCE and job.source_withheld:
            message = "The source was read with the service's own credentials, so it is not handed out: use audio.wav."
            raise RequestError("forbidden", message)
        for file in await self.files(job):
            if file.name == name:
                return file
        raise RequestError("not_found", "The job has no such artifact.")

    async def summary(self, job: Job) -> str | None:
        if job.summary_state is not SummaryState.COMPLETED or job.purged_at is not None:
            return None
        try:
            return (await asyncio.to_thread(self._artifacts.read, summary_key(job.id))).decode()
        except FileNotFoundError:  # purged meanwhile
            return None

    def content(self, file: Artifact, start: int, length: int) -> Iterator[bytes]:
        """Chunks of `length` bytes from `start`."""
        if file.name == AUDIO:
            samples = (file.size - WAV_HEADER_BYTES) // (SAMPLE_BYTES * (file.channels or 1))
            return wav_chunks(self._artifacts, file.key, samples, start, length, file.channels)
        return self._artifacts.chunks(file.key, start, length)
