"""Outcome of a submission, and its idempotency key."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from serve_app.models.job import Job


class SubmitOutcome(StrEnum):
    NEW = "new"
    SAME = "same"  # the idempotency key stands for a job made by an equal request
    OTHER = "other"  # the idempotency key stands for a job made by another request
    BUSY = "busy"  # a request with this idempotency key is in progress
    FULL = "full"  # the tenant's queue is full
    SPENT = "spent"  # the tenant's monthly quota is used up or reserved
    KEPT = "kept"  # the tenant keeps as many jobs as it may
    GONE = "gone"  # the file that the job is of is deleted


class RetryOutcome(StrEnum):
    QUEUED = "queued"
    FULL = "full"  # the tenant's queue is full
    SPENT = "spent"  # the tenant's monthly quota is used up or reserved
    REFUSED = "refused"  # the job is not one to retry


class Reservation(IntEnum):
    """Reply to a reservation of an idempotency key."""

    BUSY = 0  # another request holds it
    RESERVED = 1
    USED = 2  # a job was made under it


@dataclass(frozen=True, slots=True)
class SubmitResult:
    outcome: SubmitOutcome
    job_id: str  # of the new job, or of the job that the idempotency key stands for
    job: Job | None = None  # where it is new


@dataclass(frozen=True, slots=True)
class IdempotencyRecord:
    digest: str  # hash of tenant, owner and key
    fingerprint: str  # hash of the request, which tells equal requests from others
