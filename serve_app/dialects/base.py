"""What every dialect has: a router, and its own way to say what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Response

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs.jobs import Jobs
from serve_app.jobs.outbox import Outbox
from serve_app.jobs.webhooks import Render


@dataclass(frozen=True, slots=True)
class Edge:
    """What routes work with: the core, deliveries, the storage that uploads go to, and the edge's limits."""

    jobs: Jobs
    outbox: Outbox
    artifacts: Artifacts
    max_upload_bytes: int
    sse_max_age_s: float
    allowed_hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error` renders an error for paths that start with `prefix`; `routes` binds the routes to an edge; `render` tells a
    webhook that a job made in the dialect called `name` has ended, in one that has webhooks."""

    name: str
    prefix: str
    routes: Callable[[Edge], APIRouter]
    error: Callable[[EdgeError], Response]
    render: Render | None = None


IdempotencyKey = Annotated[str | None, Header(alias="Idempotency-Key", description="Sent again, it makes no second job.")]
"""What every POST that makes a job takes."""
