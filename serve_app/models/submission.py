"""Outcome of a submission, and the idempotency key that it was made under."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.models.job import Job


class SubmitOutcome(StrEnum):
    """Result of a submission: a new job, the job of an equal request before, or the reason why there is none."""

    NEW = "new"
    SAME = "same"  # the idempotency key stands for a job made by an equal request
    OTHER = "other"  # the idempotency key stands for a job made by another request
    BUSY = "busy"  # a request with this idempotency key is in progress
    FULL = "full"  # the tenant's queue is full
    SPENT = "spent"  # the tenant's monthly quota is used up
    GONE = "gone"  # the file that the job is of is deleted


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """Reply of the store to a submission."""

    outcome: SubmitOutcome
    job_id: str  # of the new job, or of the job that the idempotency key stands for
    job: Job | None = None  # where it is new


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    """An idempotency key as it is stored."""

    digest: str  # hash of tenant, owner and key
    fingerprint: str  # hash of the request, which tells equal requests from others
