"""Query and page of a job listing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from serve_app.models.job import Job, Mark, State


class SortBy(StrEnum):
    MADE = "made"  # time of creation
    ENDED = "ended"  # time of the end; jobs that have not ended come before all others, or after them
    STATE = "state"  # in the order in which the query names the states


@dataclass(frozen=True, slots=True)
class JobQuery:
    """Filter, sort order and cursor. Sorting by state supports `offset` only."""

    states: tuple[State, ...] = tuple(State)
    marks: tuple[Mark, ...] = (Mark.NONE,)
    order: SortBy = SortBy.MADE
    newest_first: bool = True
    made_after: float | None = None  # Unix seconds, inclusive, as the three below
    made_before: float | None = None
    ended_after: float | None = None
    ended_before: float | None = None
    file: str | None = None  # id of the file that the jobs are of
    after: int | None = None  # cursor: JobPage.next of the previous page
    offset: int = 0  # how many jobs to skip
    limit: int = 20


@dataclass(frozen=True, slots=True)
class JobPage:
    jobs: tuple[Job, ...]
    total: int  # on all pages; at least as many as there are where both times are bounded and thousands of jobs match
    next: int | None  # cursor of the next page, None on the last
