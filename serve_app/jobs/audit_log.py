"""Audit log: one JSON line per event."""

from __future__ import annotations

import logging
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson

log = logging.getLogger(__name__)

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
