"""Where everything of jobs and files lies in the artifacts."""

from __future__ import annotations

JOBS = "jobs"
"""Where everything of jobs lies in the artifacts."""


FILES = "files"
"""Where sources lie that several jobs may be made of."""


def file_folder(file_id: str) -> str:
    """Everything of a file that is not in Redis."""
    return f"{FILES}/{file_id}"


def file_key(file_id: str) -> str:
    """Where a file itself lies in the artifacts."""
    return f"{FILES}/{file_id}/source"


def source_key(job_id: str) -> str:
    """Where a job's source lies in the artifacts."""
    return f"{JOBS}/{job_id}/source"


def pcm_prefix(job_id: str) -> str:
    """Where its decoded audio lies."""
    return f"{JOBS}/{job_id}/pcm"


def transcript_key(job_id: str, token: int) -> str:
    """Where the transcript lies that the holder of a claim wrote: one who slept past its lease writes over no other's."""
    return f"{JOBS}/{job_id}/transcript.{token}.jsonl"


def summary_key(job_id: str) -> str:
    """Where a job's summary lies."""
    return f"{JOBS}/{job_id}/summary.txt"


def job_folder(job_id: str) -> str:
    """Everything of a job that is not in Redis."""
    return f"{JOBS}/{job_id}"
