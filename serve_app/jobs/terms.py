"""The terms on which the store is asked, and those in which it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from serve_app.jobs.models import Job, Mark, State


class Verdict(StrEnum):
    """What became of a submit: a new job; the job that the same request made before; or why there is none."""

    NEW = "new"
    SAME = "same"
    OTHER = "other"
    BUSY = "busy"
    FULL = "full"
    SPENT = "spent"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a submit, the id of the job that there is, and the job itself where it is new and just made."""

    verdict: Verdict
    job_id: str
    job: Job | None = None


class Order(StrEnum):
    """What a list goes by. By the end: those that have not ended come before all others, or after them all."""

    MADE = "made"
    ENDED = "ended"
    STATE = "state"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which jobs a list is to show: in which states, with which marks, made or ended when (Unix seconds, bounds included),
    of which file; in which order; after which place of the list that a page before gave, or how many of them to pass over.
    By state, which come as `states` has them, there are no places."""

    states: tuple[State, ...] = tuple(State)
    marks: tuple[Mark, ...] = (Mark.NONE,)
    order: Order = Order.MADE
    newest_first: bool = True
    made_after: float | None = None
    made_before: float | None = None
    ended_after: float | None = None
    ended_before: float | None = None
    file: str | None = None
    after: int | None = None
    offset: int = 0
    limit: int = 20


@dataclass(frozen=True, slots=True)
class Listed:
    """A page of jobs; how many there are on all pages; the place after which the next page begins, None on the last."""

    jobs: tuple[Job, ...]
    total: int
    next: int | None


class Counts(StrEnum):
    """What an attempt that was given back counts as."""

    NOTHING = "nothing"
    ATTEMPT = "attempt"
    STALL = "stall"
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Once:
    """An idempotency key as it is kept (`place`), and what tells one request with it from another."""

    place: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Leases:
    """How long a claim lasts without renewal; how many workers a job may cost without getting on: a few that had this job
    alone, more of those that had others too, and so may have died of those or of nothing in particular."""

    lease_s: float = 30.0
    max_stalls: int = 3
    max_losses: int = 9


@dataclass(frozen=True, slots=True)
class Figures:
    """`grown` counts and histograms that only grow (lua/lib.lua); jobs waiting, running and delayed; webhooks queued; the
    age of the oldest job whose turn is next."""

    grown: Mapping[str, int]
    waiting: int
    running: int
    delayed: int
    webhooks: int
    queue_age_s: float = 0.0
