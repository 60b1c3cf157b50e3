"""Log file shared by all processes of a one-machine service."""

from __future__ import annotations

import fcntl
import logging
import re
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path

import orjson

NAME = "murmur.log"
MAX_BYTES = 64 << 20
KEPT = 3  # rotated files: NAME.1 is the newest
LOGGED_PACKAGES = ("serve_app", "deployments")  # whose loggers write to the log file
IDS = re.compile(r"\b(job_id|request_id|webhook_id)=([^\s]+)")
TEXT = "%(asctime)s %(levelname)s %(process)d %(name)s %(message)s"


class TextLines(logging.Formatter):
    """Formats a record as a line of text, and its exception as Python prints it."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # another handler's formatter may have left its own form of the traceback here
        return super().format(record)


class JsonLines(logging.Formatter):
    """Formats a record as a JSON object; ids in the message (`job_id=...`) become fields."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": message,
            **dict(reversed(IDS.findall(message))),  # the first match of each: what follows may be a user's text
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(fields).decode()


class RotatedFile(WatchedFileHandler):
    """Handler of a log file that several processes append to, and that any of them rotates."""

    # Each line is one short write; after a rotation, WatchedFileHandler opens the new file before the next line.
    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        with suppress(OSError):  # a full disk, say: the next line tries again
            if self.stream and self.stream.tell() > MAX_BYTES:
                rotate(Path(self.baseFilename))


def log_to_file(data_dir: Path, style: str) -> None:
    """Add a handler that appends to the log file."""
    handler = _handler(data_dir, style)
    for package in LOGGED_PACKAGES:
        logger = logging.getLogger(package)
        for previous in [h for h in logger.handlers if isinstance(h, WatchedFileHandler)]:
            logger.removeHandler(previous)
            previous.close()
        logger.addHandler(handler)


def log_file(data_dir: Path) -> Path:
    return data_dir / "logs" / NAME


def _handler(data_dir: Path, style: str) -> logging.Handler:
    path = log_file(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = RotatedFile(path, encoding="utf-8")
    handler.setFormatter(JsonLines() if style == "json" else TextLines(TEXT))
    return handler


def rotate_log(data_dir: Path) -> None:
    """Rotate the log file if it is large."""
    rotate(log_file(data_dir))


def rotate(log: Path) -> None:
    """Rename a log file above MAX_BYTES to `.1`, that to `.2` and so on up to KEPT."""
    if not log.is_file():
        return
    with log.with_name(f"{log.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        # Another process may have rotated it meanwhile.
        if not log.is_file() or log.stat().st_size <= MAX_BYTES:
            return
        for number in range(KEPT, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
            with suppress(FileNotFoundError):
                newer.replace(older)
