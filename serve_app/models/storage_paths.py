"""Keys of jobs and files in the artifact storage, and names of artifacts."""

from __future__ import annotations

JOBS = "jobs"
FILES = "files"
# Names of artifacts in the API. The first two are also file names in storage; the WAV file is rendered from PCM parts.
SOURCE = "source"
LISTENING = "listening.mp3"
AUDIO = "audio.wav"
TRANSCRIPT = "transcript.jsonl"


def job_folder(job_id: str) -> str:
    return f"{JOBS}/{job_id}"


def file_folder(file_id: str) -> str:
    return f"{FILES}/{file_id}"


def source_key(job_id: str) -> str:
    """Source of a job that has its own."""
    return f"{job_folder(job_id)}/{SOURCE}"


def file_key(file_id: str) -> str:
    """Source that several jobs share."""
    return f"{file_folder(file_id)}/{SOURCE}"


def listening_key(source: str) -> str:
    """MP3 copy, beside its source."""
    return f"{source.rpartition('/')[0]}/{LISTENING}"


def pcm_prefix(job_id: str) -> str:
    return f"{job_folder(job_id)}/pcm"


def progress_key(job_id: str, token: int) -> str:
    # By the claim's token: a worker whose lease expired slows no other's decode.
    return f"{pcm_prefix(job_id)}/committed.{token}"


def transcript_key(job_id: str, token: int) -> str:
    # By the claim's token: a worker whose lease expired never overwrites another's transcript.
    return f"{job_folder(job_id)}/transcript.{token}.jsonl"


def summary_key(job_id: str) -> str:
    return f"{job_folder(job_id)}/summary.txt"
