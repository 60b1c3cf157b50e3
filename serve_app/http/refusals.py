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


class Refusals:
    """Records refused keys, scopes, hosts and origins; a log line has the number since the last one."""

    def __init__(self) -> None:
        self._count = 0
        self._next = 0.0

    def note(self, request: Request, refusal: RequestError) -> None:
        if refusal.code not in CODES:
            return
        audit("auth.failed", result=refusal.code)
        self._count += 1
        now = time.monotonic()
        if now < self._next:
            return
        remote = request.client.host if request.client else "unknown"
        request_id = getattr(request.state, "request_id", "")
        log.warning("request_id=%s refused: %s, remote=%s, refusals=%d", request_id, refusal.code, remote, self._count)
        self._count, self._next = 0, now + PERIOD_S
