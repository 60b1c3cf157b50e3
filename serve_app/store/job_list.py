"""Ids of the jobs of a listing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serve_app.errors import RequestError
from serve_app.models.job import State
from serve_app.models.listing import JobQuery, SortBy

# A filter on both times looks at jobs one by one: at so many in one call, in so many calls to fill a page, and in so many to
# count the rest. Between two calls, Redis serves others.
BUDGET, PAGE_CALLS, COUNT_CALLS = 1000, 100, 10

Run = Callable[..., Awaitable[Any]]  # Scripts.run


@dataclass(slots=True)
class ListedIds:
    ids: list[str] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)  # of each job, in the order of the listing
    total: int = 0

    def page(self, limit: int) -> tuple[list[str], int | None]:
        """Ids of the page, and the cursor of the next one (None on the last)."""
        return self.ids[:limit], self.stamps[limit - 1] if len(self.ids) > limit else None


async def list_jobs(run: Run, index: str, query: JobQuery) -> ListedIds:
    """Jobs of a page and one more. Raises RequestError where too many lie within both times."""
    groups = [(state,) for state in query.states] if query.order is SortBy.STATE else [query.states]
    listed, offset = ListedIds(), query.offset
    for states in groups:
        before = listed.total
        await _add_group(run, index, query, states, max(offset, 0), listed)
        offset -= listed.total - before
    return listed


async def _add_group(run: Run, index: str, query: JobQuery, states: Sequence[State], offset: int, listed: ListedIds) -> None:
    after, total, calls = query.after, listed.total, 0
    while True:
        missing = query.limit + 1 - len(listed.ids)
        filters = _filters(query, states, after)
        count, resume, skipped, *rows = await run("list", index, *filters, offset, missing, BUDGET)
        listed.ids += [job_id.decode() for job_id in rows[::2]]
        listed.stamps += [int(stamp) for stamp in rows[1::2]]
        listed.total = total + count
        calls += 1
        filled = len(listed.ids) > query.limit
        if not resume or (filled and calls >= COUNT_CALLS):
            return
        if calls >= PAGE_CALLS:
            raise RequestError("invalid_request", "Too many jobs lie within these times: choose a shorter time.")
        after, offset = int(resume), offset - min(skipped, offset)
        total += skipped + len(rows) // 2


def shelves(query: JobQuery, states: Sequence[State]) -> str:
    """Names of the status indexes of a query, for list.lua."""
    return ",".join(f"{state}{mark}" for state in states for mark in query.marks if state.final or not mark)


def _filters(query: JobQuery, states: Sequence[State], after: int | None) -> list[Any]:
    # Arguments of list.lua from `shelves` to `after`.
    order = SortBy.MADE if query.order is SortBy.STATE else query.order
    times = (query.made_after, query.made_before, query.ended_after, query.ended_before)
    bounds = ["" if at is None else round(at * 1000) for at in times]
    return [shelves(query, states), order, "desc" if query.newest_first else "asc", *bounds, "" if after is None else after]
