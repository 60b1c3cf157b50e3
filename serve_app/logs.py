"""What the parts of the service write down: a line an event, to one file, as text or as JSON."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import orjson

NAME = "murmur.log"
LARGEST = 64 << 20
OURS = ("serve_app", "deployments")
NAMED = re.compile(r"\b(job_id|request_id|webhook_id)=([^\s]+)")
TEXT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"


class JsonLines(logging.Formatter):
    """A record as a JSON object; what its message names as `job_id=...` is a field as well."""

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        message = record.getMessage()
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": message,
            **dict(NAMED.findall(message)),
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(told).decode()


def log_to_file(data_dir: Path, style: str) -> None:
    """Have all that the house says appended to its log as well. Lines are short, and each is one write: many processes
    share the file; one who finds it moved away begins a new one."""
    handler = _handler(data_dir, style)
    for package in OURS:
        logger = logging.getLogger(package)
        for old in [h for h in logger.handlers if isinstance(h, WatchedFileHandler)]:
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)


def _handler(data_dir: Path, style: str) -> logging.Handler:
    folder = data_dir / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    handler = WatchedFileHandler(folder / NAME, encoding="utf-8")
    handler.setFormatter(JsonLines() if style == "json" else logging.Formatter(TEXT))
    return handler


def turn_over(data_dir: Path) -> None:
    """Put a log that has grown large aside, in the place of the one before it."""
    log = data_dir / "logs" / NAME
    if log.is_file() and log.stat().st_size > LARGEST:
        log.replace(log.with_suffix(".log.1"))
