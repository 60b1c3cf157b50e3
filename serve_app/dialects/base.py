"""What every dialect has: a router, and its own way to say what went wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import APIRouter, Response

from deployments.artifacts import Artifacts
from serve_app.errors import EdgeError
from serve_app.jobs.jobs import Jobs
from serve_app.jobs.models import Principal


@dataclass(frozen=True, slots=True)
class Edge:
    """What routes work with: the core, the storage that uploads go to, and the edge's limits."""

    jobs: Jobs
    artifacts: Artifacts
    max_upload_bytes: int
    sse_max_age_s: float
    allowed_hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Dialect:
    """`error` renders an error for paths that start with `prefix`; `routes` binds the routes to an edge."""

    prefix: str
    routes: Callable[[Edge], APIRouter]
    error: Callable[[EdgeError], Response]


ANONYMOUS = Principal("anonymous", "default")
"""Who asks where no keys are required, on loopback."""
