"""Keys of everything that jobs and files keep in the artifact storage."""

from __future__ import annotations

JOBS = "jobs"
FILES = "files"
LISTENING = "listening.mp3"


def job_folder(job_id: str) -> str:
    """Everything of a job that is not in Redis."""
    return f"{JOBS}/{job_id}"


def file_folder(file_id: str) -> str:
    """Everything of a shared file that is not in Redis."""
    return f"{FILES}/{file_id}"


def source_key(job_id: str) -> str:
    """Source recording of a job that has its own."""
    return f"{job_folder(job_id)}/source"


def file_key(file_id: str) -> str:
    """Source recording that several jobs share."""
    return f"{file_folder(file_id)}/source"


def listening_key(source: str) -> str:
    """MP3 copy, beside the source that it was made of."""
    return f"{source.rpartition('/')[0]}/{LISTENING}"


def pcm_prefix(job_id: str) -> str:
    """Prefix of the decoded PCM parts."""
    return f"{job_folder(job_id)}/pcm"


def transcript_key(job_id: str, token: int) -> str:
    """Transcript written under a claim's token, so that a worker whose lease expired never overwrites another's."""
    return f"{job_folder(job_id)}/transcript.{token}.jsonl"


def summary_key(job_id: str) -> str:
    """Summary of the transcript."""
    return f"{job_folder(job_id)}/summary.txt"
