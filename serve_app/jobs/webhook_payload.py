"""Payload of a webhook, and how a dialect renders one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from serve_app.jobs.results import Results
from serve_app.models.job import Job


@dataclass(frozen=True, slots=True)
class Payload:
    """What is sent: the body, its type, and headers beside those of the specification."""

    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


PayloadRenderer = Callable[[Job, Results], Awaitable[Payload]]
"""How a dialect tells that a job has ended."""
