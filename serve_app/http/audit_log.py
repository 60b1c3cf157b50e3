"""Audit log: one JSON line per event, and the middleware that knows the request of each."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve_app.jobs.audit import RECORDER
from serve_app.models.principal import Principal

log = logging.getLogger(__name__)

MAX_TEXT = 256  # characters of a text that a client chose
FAILURES_PER_MINUTE = 60  # lines of `auth.failed`; later ones are counted in the next line


class AuditLog:
    """Appends to a file, which processes share."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._minute, self._failures, self._suppressed = 0, 0, 0

    @classmethod
    def under(cls, data_dir: Path) -> AuditLog:
        return cls(data_dir / "logs" / "audit.jsonl")

    def write(self, event: str, **fields: object) -> None:
        """Append one line."""
        if event == "auth.failed":
            if not self._may_write_failure():
                return
            fields |= {"suppressed": self._suppressed} if self._suppressed else {}
            self._suppressed = 0
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = orjson.dumps({"time": moment, "event": event, **fields}, default=str) + b"\n"
        try:
            written = self._append(line)
        except OSError as error:
            log.error("audit log not written, entry lost: %s", error)
            return
        if written != len(line):
            log.error("audit log written in part, entry lost: is the disk full?")

    def _append(self, line: bytes) -> int:
        # Opened each time, so that it can be rotated by renaming.
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return os.write(file, line)
        finally:
            os.close(file)

    def _may_write_failure(self) -> bool:
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._failures = minute, 0
        self._failures += 1
        self._suppressed += self._failures > FAILURES_PER_MINUTE
        return self._failures <= FAILURES_PER_MINUTE


class Audited:
    """Middleware: writes each event of a request once."""

    def __init__(self, app: ASGIApp, log: AuditLog, dialect_of: Callable[[str], str]) -> None:
        self._app = app
        self._log = log
        self._dialect_of = dialect_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        recorded: set[tuple[str, str]] = set()

        def record(event: str, job_id: str = "", result: str = "ok") -> None:
            if (event, job_id) not in recorded:
                recorded.add((event, job_id))
                self._log.write(event, result=result, job_id=job_id or None, **self._request(scope))

        token = RECORDER.set(record)
        try:
            await self._app(scope, receive, send)
        finally:
            RECORDER.reset(token)

    def _request(self, scope: Scope) -> dict[str, object]:
        state = scope.get("state", {})
        principal: Principal | None = state.get("principal")
        client = scope.get("client")
        forwarded = Headers(scope=scope).get("x-forwarded-for")
        return {
            "tenant": principal and principal.tenant,
            "owner": principal and principal.owner,
            "key_id": (principal and principal.key_id) or None,
            "ticket": bool(principal and principal.job_id),
            "request_id": state.get("request_id"),
            "request": f"{scope['method']} {scope['path']}"[:MAX_TEXT],  # without the query, which may hold a ticket
            "dialect": self._dialect_of(scope["path"]),
            "remote": client[0] if client else None,
            **({"forwarded_for": forwarded[:MAX_TEXT]} if forwarded else {}),
        }
