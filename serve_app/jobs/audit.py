"""Hook of the audit log."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol


class Recorder(Protocol):
    def __call__(self, event: str, job_id: str = "", result: str = "ok") -> None: ...


RECORDER: ContextVar[Recorder | None] = ContextVar("audit_recorder", default=None)


def audit(event: str, job_id: str = "", result: str = "ok") -> None:
    """Record an event, such as `job.read`, if the request is audited."""
    if recorder := RECORDER.get():
        recorder(event, job_id, result)
