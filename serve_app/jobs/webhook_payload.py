"""Payload of a webhook."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from serve_app.jobs.results import Results
from serve_app.models.job import Job


@dataclass(frozen=True, slots=True)
class Payload:
    body: bytes
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)  # beside those of Standard Webhooks


# Renders the end of a job in the form of a dialect.
PayloadRenderer = Callable[[Job, Results], Awaitable[Payload]]
