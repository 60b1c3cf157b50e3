"""Claims on jobs, commits under them, and the rules for leases."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from serve_app.models.event import Progress
from serve_app.models.job import ChannelCheckpoint, JobWarning


@dataclass(frozen=True, slots=True)
class Claim:
    """A job held under a lease."""

    job_id: str
    token: int  # fencing token: every write shows it, and a newer claim makes it void


@dataclass(frozen=True, slots=True)
class Commit:
    window: int  # index
    segments: tuple[str, ...]  # JSON objects
    end_s: float  # end of the text so far, in seconds
    language: str | None
    device: str
    progress: Progress
    decodes: int = 1  # how often the window was decoded
    fill: float = 1.0  # how full its batch was, 0 to 1
    channel: int | None = None  # separate channel of the window, None for the mix
    state: ChannelCheckpoint = field(default_factory=ChannelCheckpoint)  # of that channel after this window
    warning: JobWarning | None = None  # added to the job


class CommitOutcome(StrEnum):
    COMMITTED = "committed"
    YIELD = "yield"  # committed, and the job must be given back: others wait for their share
    EXHAUSTED = "exhausted"  # committed, and the job must end: the tenant's minutes of this month are used up
    REPEATED = "repeated"  # the place was committed before: nothing was appended
    CANCELLING = "cancelling"  # refused: a cancel was requested; the lease is still held
    LOST = "lost"  # refused: another worker holds the job


class LeaseState(StrEnum):
    HELD = "held"
    CANCELLING = "cancelling"  # held, and a cancel was requested
    LOST = "lost"


class AttemptCost(StrEnum):
    """Charge for an attempt that was given back."""

    NOTHING = "nothing"
    ATTEMPT = "attempt"
    STALL = "stall"  # a worker died that had this job alone
    LOSS = "loss"  # a worker died that had other jobs too


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """Lease duration, and lost workers a job may cost without progress."""

    lease_s: float = 30.0
    max_stalls: int = 3
    max_losses: int = 9  # more than stalls: those workers may have died of another job
