"""Refused keys: in the audit log, and in the log at a bounded rate."""

from __future__ import annotations

import logging
import time

from fastapi import Request

from serve_app.errors import RequestError
from serve_app.jobs.audit import audit

log = logging.getLogger(__name__)

PERIOD_S = 10.0  # at most one line in it
CODES = ("unauthenticated", "forbidden")


class RefusalLog:
    """Logs the first refusal of a period, with the number since the last line."""

    def __init__(self) -> None:
        self._count = 0
        self._next = 0.0

    def note(self, request: Request, code: str, now: float) -> None:
        self._count += 1
        if now < self._next:
            return
        remote = request.client.host if request.client else "unknown"
        request_id = getattr(request.state, "request_id", "")
        log.warning("request_id=%s refused: %s, remote=%s, refusals=%d", request_id, code, remote, self._count)
        self._count, self._next = 0, now + PERIOD_S


REFUSALS = RefusalLog()


def note_refusal(request: Request, refusal: RequestError) -> None:
    """Record a refused key, scope, host or origin."""
    if refusal.code in CODES:
        audit("auth.failed", result=refusal.code)
        REFUSALS.note(request, refusal.code, time.monotonic())
