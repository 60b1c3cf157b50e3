"""The log file: lines of several processes, rotated by any of them."""

from __future__ import annotations

import logging
import multiprocessing
from pathlib import Path

import pytest

from serve_app import logs
from serve_app.logs import KEPT, LOGGED_PACKAGES, RotatedFile, log_file, log_to_file, rotate_log

LINES, PROCESSES = 300, 4


def write(data_dir: Path, name: str, max_bytes: int) -> None:
    """Log numbered lines from a process."""
    logs.MAX_BYTES = max_bytes
    log_to_file(data_dir, "text")
    logger = logging.getLogger("serve_app.test")
    logger.propagate = True
    for number in range(LINES):
        logger.warning("%s-%d", name, number)


def lines(data_dir: Path) -> list[str]:
    """Messages of all log files."""
    files = [path for path in log_file(data_dir).parent.iterdir() if path.suffix != ".lock"]
    return [line.split()[-1] for path in files for line in path.read_text().splitlines()]


def in_processes(data_dir: Path, max_bytes: int) -> None:
    """Let several processes write at the same time."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write, args=(data_dir, f"p{n}", max_bytes)) for n in range(PROCESSES)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * PROCESSES


def test_a_log_of_several_processes_rotates_without_losing_a_line(tmp_path: Path) -> None:
    # The files that are kept hold all lines: about 70 bytes each.
    in_processes(tmp_path, max_bytes=LINES * PROCESSES * 70 // KEPT)
    assert sorted(lines(tmp_path)) == sorted(f"p{p}-{n}" for p in range(PROCESSES) for n in range(LINES))
    assert log_file(tmp_path).with_name("murmur.log.1").exists()


def test_logs_have_a_bounded_size(tmp_path: Path) -> None:
    in_processes(tmp_path, max_bytes=2000)
    files = sorted(path.name for path in log_file(tmp_path).parent.iterdir() if path.suffix != ".lock")
    assert files == ["murmur.log", *(f"murmur.log.{n}" for n in range(1, KEPT + 1))]
    assert all(path.stat().st_size < 4000 for path in log_file(tmp_path).parent.iterdir())


def test_a_large_log_is_rotated_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_BYTES", 10)
    rotate_log(tmp_path)
    log_file(tmp_path).parent.mkdir()
    log_file(tmp_path).write_text("more than ten bytes")
    rotate_log(tmp_path)
    assert not log_file(tmp_path).exists()
    assert log_file(tmp_path).with_name("murmur.log.1").read_text() == "more than ten bytes"


def test_one_handler_a_process_writes_the_log(tmp_path: Path) -> None:
    log_to_file(tmp_path, "text")
    log_to_file(tmp_path, "json")
    try:
        for package in LOGGED_PACKAGES:
            assert len([h for h in logging.getLogger(package).handlers if isinstance(h, RotatedFile)]) == 1
    finally:
        for package in LOGGED_PACKAGES:
            logger = logging.getLogger(package)
            for handler in [h for h in logger.handlers if isinstance(h, RotatedFile)]:
                logger.removeHandler(handler)
                handler.close()
