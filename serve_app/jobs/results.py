"""What a job leaves behind: its files, and its transcript."""

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
from serve_app.models.job import Job, SummaryState
from serve_app.models.storage_paths import pcm_prefix, summary_key, transcript_key

AUDIO, LISTENING, SOURCE, TRANSCRIPT = "audio.wav", "listening.mp3", "source", "transcript.jsonl"
RECENT, RECENT_PARTS = 32, 4000
"""Transcripts that are at hand, and how many segments and words each may have."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a job. `key` is where it lies, or for the audio what its parts have in common, and `channels` how many of
    them were kept apart."""

    name: str
    key: str
    content_type: str
    size: int
    channels: int | None = None


class Results:
    """Reads what lies in the artifacts. Whether the caller may have it, is for others to say. Transcripts that were asked
    for lately are at hand: those who poll ask again and again, and no transcript changes."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts
        self._recent: OrderedDict[str, Transcript] = OrderedDict()

    async def transcript(self, job: Job) -> Transcript:
        """The transcript of a completed job. EdgeError `conflict` for any other."""
        if job.transcript is None:
            raise RequestError("conflict", f"There is no transcript: the job is {job.phase}.")
        key = transcript_key(job.id, job.transcript)
        if key in self._recent:
            self._recent.move_to_end(key)
            return self._recent[key]
        try:
            found = await asyncio.to_thread(read_transcript, self._artifacts, key)
        except FileNotFoundError:  # purged meanwhile
            raise not_found() from None
        if sum(1 + len(segment.words or ()) for segment in found.segments) <= RECENT_PARTS:
            self._recent[key] = found
            if len(self._recent) > RECENT:
                self._recent.popitem(last=False)
        return found

    async def heard(self, job: Job) -> Transcript | None:
        """The transcript of a job, None where there is none yet, or none any more."""
        return None if job.transcript is None else await self.transcript(job)

    async def files(self, job: Job) -> list[Artifact]:
        """The files of a job that can be fetched: its source, what was heard of it as 16 kHz WAV with the channels that it
        was heard in, the transcript, an MP3 to listen to if one was asked for."""
        if job.spec.url is not None and job.started_at is None:
            return []  # nothing of it has been fetched yet
        named = []
        if not job.spec.private:
            named.append((SOURCE, job.source, "application/octet-stream"))
        if job.spec.file is not None or (job.spec.listening and not job.spec.private):
            # Another job of the same file may have had it made.
            named.append((LISTENING, job.listening, "audio/mpeg"))
        if job.transcript is not None:
            named.append((TRANSCRIPT, transcript_key(job.id, job.transcript), "application/x-ndjson"))
        sizes = await asyncio.to_thread(lambda: [self._artifacts.size(key) for _, key, _ in named])
        files = [Artifact(*each, size) for each, size in zip(named, sizes, strict=True) if size is not None]
        if files and (audio := self.audio(job)):
            files.append(audio)
        return files

    @staticmethod
    def audio(job: Job) -> Artifact | None:
        """What was heard of a completed job."""
        if job.transcript is None or job.audio_total_s is None or job.spec.private:
            return None
        # All of it was decoded, or there were no transcript.
        size = WAV_HEADER_BYTES + round(job.audio_total_s * SAMPLE_RATE) * SAMPLE_BYTES * (job.audio_channels or 1)
        return Artifact(AUDIO, pcm_prefix(job.id), "audio/wav", size, job.audio_channels)

    async def file(self, job: Job, name: str) -> Artifact:
        """One of them by name. EdgeError `not_found`."""
        found = [file for file in await self.files(job) if file.name == name]
        if not found:
            raise RequestError("not_found", "The job has no such artifact.")
        return found[0]

    async def summary(self, job: Job) -> str | None:
        """The summary of a job, once it is made."""
        if job.summary_state is not SummaryState.COMPLETED or job.purged_at is not None:
            return None
        try:
            return (await asyncio.to_thread(self._artifacts.read, summary_key(job.id))).decode()
        except FileNotFoundError:  # purged meanwhile
            return None

    def content(self, file: Artifact, start: int, length: int) -> Iterator[bytes]:
        """Bytes of a file, a piece at a time."""
        if file.name == AUDIO:
            samples = (file.size - WAV_HEADER_BYTES) // (SAMPLE_BYTES * (file.channels or 1))
            return wav_chunks(self._artifacts, file.key, samples, start, length, file.channels)
        return self._artifacts.chunks(file.key, start, length)
