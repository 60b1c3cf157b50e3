"""The embedded Valkey: a full disk and a long load are waited out, its files are private, its log is bounded."""

from __future__ import annotations

import logging
import os
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from serve_app.local import valkey as valkey_module
from serve_app.local import valkey_supervisor
from serve_app.local.preflight import StartError
from serve_app.local.valkey import Valkey, ValkeyFailed
from serve_app.local.valkey_supervisor import ValkeySupervisor

KEYS = 20_000
DISK_BYTES, NEEDED_BYTES = 16 << 20, 4 << 20


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """Short path for sockets."""
    with tempfile.TemporaryDirectory(prefix="murmur-test-", dir="/tmp") as directory:
        yield Path(directory)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Filesystem of DISK_BYTES, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(disk)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 10.0  # every check is due
        return self.now


def supervised(server: Valkey, data_dir: Path, clock: Clock | None = None) -> ValkeySupervisor:
    return ValkeySupervisor(server, data_dir, 1 << 20, lambda: False, clock or Clock())


def kill(server: Valkey) -> None:
    assert server.pid
    process = server._process
    assert process
    process.kill()
    process.wait()


def push_until_refused(redis: Redis) -> int:
    """Fill the disk; returns how many writes were acknowledged."""
    acknowledged = 0
    with suppress(RedisError):
        while True:
            redis.rpush("jobs", os.urandom(100_000))
            acknowledged += 1
    return acknowledged


def test_a_full_disk_is_waited_out_without_losing_what_was_acknowledged(
    small_disk: Path, run_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Valkey(small_disk, run_dir, NEEDED_BYTES)
    supervisor = supervised(server, small_disk)
    supervisor.start()
    try:
        with Redis.from_url(server.url) as redis:
            (small_disk / "filler").write_bytes(b"0" * (DISK_BYTES * 3 // 4))
            acknowledged = push_until_refused(redis)
        assert acknowledged
        assert server._process
        server._process.wait(30)
        for _ in range(20):
            supervisor.check()
        assert server.pid is None
        waiting = [r.getMessage() for r in caplog.records if "its disk is full" in r.getMessage()]
        assert 1 <= len(waiting) <= 5, "it says so, and not at every check"
        (small_disk / "filler").unlink()
        supervisor.check()
        assert server.pid
        assert "embedded Valkey died, restarted" in caplog.text
        with Redis.from_url(server.url) as redis:
            assert redis.llen("jobs") == acknowledged
            redis.rpush("jobs", "more")
    finally:
        server.stop()


def test_a_low_disk_is_logged_once_and_so_is_its_end(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    free = 0
    monkeypatch.setattr(valkey_supervisor, "free_space", lambda _: free)
    supervisor = supervised(Valkey(tmp_path, run_dir), tmp_path)
    for _ in range(5):
        supervisor.check()
    free = 1 << 40
    for _ in range(5):
        supervisor.check()
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition("uploads ")[2].split()[1] for line in lines] == ["refused", "accepted"]


def test_a_long_load_is_waited_for_and_its_progress_is_logged(
    tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(valkey_module, "PROGRESS_S", 0.05)
    server = Valkey(tmp_path, run_dir)
    server.start()
    with Redis.from_url(server.url) as redis:
        redis.config_set("appendfsync", "no")
        with redis.pipeline(transaction=False) as pipe:
            for number in range(KEYS):
                pipe.set(f"key{number}", "value")
            pipe.execute()
    kill(server)
    options = server._options
    slow = ["--key-load-delay", "50"]  # microseconds
    monkeypatch.setattr(server, "_options", lambda: [*options(), *slow])
    try:
        assert server.restart_if_dead()
        lines = [record.getMessage() for record in caplog.records if "is loading its data" in record.getMessage()]
        assert any("% of" in line and "s left" in line for line in lines)
        with Redis.from_url(server.url) as redis:
            assert redis.dbsize() == KEYS
    finally:
        server.stop()


def test_a_load_can_be_interrupted(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Valkey, "_loading", lambda _: "1 %")
    server = Valkey(tmp_path, run_dir)
    with pytest.raises(ValkeyFailed, match="interrupted"):
        server.start(abandoned=lambda: True)
    assert server.pid is None


def test_a_server_that_ends_at_its_start_is_given_up_with_its_last_words(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "valkey/appendonlydir").mkdir(parents=True)
    (tmp_path / "valkey/appendonlydir/appendonly.aof.manifest").write_text("nonsense\n")
    server = Valkey(tmp_path, run_dir)
    with pytest.raises(StartError, match=r"ended at its start \(.*manifest.*\): see .*valkey.log"):
        supervised(server, tmp_path).start()


def test_a_write_that_was_cut_off_is_dropped_and_the_rest_loaded(tmp_path: Path, run_dir: Path) -> None:
    server = Valkey(tmp_path, run_dir)
    server.start()
    with Redis.from_url(server.url) as redis:
        redis.set("whole", "1")
    kill(server)
    [log] = (tmp_path / "valkey/appendonlydir").glob("*.incr.aof")
    with log.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$4\r\nhal")
    assert server.restart_if_dead()
    try:
        with Redis.from_url(server.url) as redis:
            assert redis.keys() == [b"whole"]
    finally:
        server.stop()


def test_its_files_are_private_and_so_are_those_of_an_older_release(tmp_path: Path, run_dir: Path) -> None:
    (tmp_path / "valkey").mkdir(mode=0o755)
    server = Valkey(tmp_path, run_dir)
    server.start()
    try:
        with Redis.from_url(server.url) as redis:
            redis.set("secret", "1")
        paths = [tmp_path / "valkey", *(tmp_path / "valkey").rglob("*")]
        assert len(paths) > 4
        modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in paths if path.name != "url"}
        assert not {path: oct(mode) for path, mode in modes.items() if mode & 0o077}
    finally:
        server.stop()


def test_its_log_is_rotated_while_it_runs(tmp_path: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey_module, "LOG_BYTES", 10)
    server = Valkey(tmp_path, run_dir)
    supervisor = supervised(server, tmp_path)
    supervisor.start()
    try:
        supervisor.check()
        assert (tmp_path / "valkey/valkey.log.1").is_file()
        assert server.pid
        os.kill(server.pid, signal.SIGTERM)
        assert server._process
        server._process.wait(30)
        assert "SIGTERM" in server.log.read_text()
    finally:
        server.stop()
