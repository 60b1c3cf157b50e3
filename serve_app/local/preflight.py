"""Checks and locks before the start; the checks raise StartError."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

from serve_app.settings import Settings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
CONNECT_S = 5.0
DASHBOARD_PORTS = 50  # ports to try


class StartError(Exception):
    """The service cannot start; one line with the remedy."""


@contextmanager
def temporary_directory() -> Iterator[str]:
    # A socket path is limited to 107 bytes, and Ray's longest one takes 80 below this directory.
    short = "/tmp" if len(tempfile.gettempdir()) > 10 and Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp
    directory = tempfile.mkdtemp(prefix="murmur-", dir=short)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_host(host: str, *, keyed: bool, allow_anonymous: bool) -> None:
    """Refuse to listen beyond loopback without keys."""
    if host not in LOOPBACK and not keyed and not allow_anonymous:
        raise StartError(
            f"refused to listen on {host} without keys: set MURMUR_API_KEYS_REQUIRED=true and make some with `murmur keys "
            "create`, or say --allow-anonymous"
        )


def unreachable_host(host: str, allowed: Collection[str], *, keyed: bool) -> str:
    """Reason why a service on `host` would refuse other machines; empty if it would not."""
    if host in LOOPBACK or keyed or not set(allowed) <= set(LOOPBACK):
        return ""
    return (
        f"on {host} without keys, but only requests for {', '.join(LOOPBACK)} are answered, all others with 403: set "
        "MURMUR_ALLOWED_HOSTS to the names and addresses that clients use"
    )


def check_port(host: str, port: int, *, exclusive: bool = False) -> None:
    """`exclusive` also refuses a port with connections in TIME_WAIT."""
    # Needed because Ray's proxy binds with SO_REUSEPORT and would silently share the port with another program.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(not exclusive))
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise StartError(f"port {port} on {host} is taken ({error.strerror}): choose another by --port") from None


def free_port(first: int) -> int:
    for port in range(first, first + DASHBOARD_PORTS):
        with suppress(StartError):
            check_port("127.0.0.1", port, exclusive=True)  # Ray's dashboard binds without SO_REUSEADDR
            return port
    raise StartError(f"no port from {first} on is free for the dashboard: set MURMUR_DASHBOARD_PORT")


@contextmanager
def start_lock(interrupted: Event) -> Iterator[None]:
    """Serialize starts on this machine, which look for free ports."""
    with Path(tempfile.gettempdir(), f".murmur-{os.getuid()}.start").open("a") as lock:
        while not interrupted.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                interrupted.wait(0.1)
        yield


@contextmanager
def lock_data_dir(data_dir: Path) -> Iterator[None]:
    """Create and lock the data directory: two services would overwrite each other's jobs."""
    try:
        make_private(data_dir)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(data_dir) from None
        yield


def make_private(folder: Path) -> None:
    """Create a directory, or correct its permissions. Raises StartError, OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & stat.S_ISVTX:
        raise StartError(f"{folder} is shared by all users of this machine: choose a directory of its own")
    if mode & 0o077:
        folder.chmod(0o700)


def check_data_dir(data_dir: Path) -> None:
    """Check that `lock_data_dir` would succeed, creating nothing."""
    check_writable(data_dir, "MURMUR_DATA_DIR")
    with suppress(FileNotFoundError), (data_dir / "lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(data_dir) from None


def check_writable(folder: Path, setting: str) -> None:
    """Check that a directory could be created or written."""
    existing = existing_ancestor(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise StartError(f"the directory {folder} cannot be used ({existing} is not writable): set {setting}")


def _in_use(data_dir: Path) -> StartError:
    return StartError(f"another murmur uses {data_dir}: stop it, or choose another by --data-dir")


def without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def check_ray(address: str) -> None:
    """Check that the cluster accepts connections; Ray itself would retry for a minute."""
    host, _, port = address.rpartition(":")
    if address == "auto" or not port.isdecimal():
        return
    try:
        socket.create_connection((host.removeprefix("ray://") or "127.0.0.1", int(port)), CONNECT_S).close()
    except OSError as error:
        raise StartError(f"no Ray cluster answers at {address} ({error.strerror or error})") from None


def check_shared(settings: Settings) -> None:
    """Refuse a Redis or a storage that only this machine reaches, for a cluster."""
    # Also for a cluster of one machine: it may grow at any time.
    host = urlsplit(settings.redis_url).hostname or ""
    if not settings.redis_url or settings.redis_url.startswith("unix:") or host in LOOPBACK:
        raise StartError("a Ray cluster needs a Redis that all its machines reach: name one by --redis-url")
    if not settings.storage_uri:
        raise StartError(
            "a Ray cluster needs a storage that all its machines reach: set MURMUR_STORAGE_URI to a bucket, or to the "
            "file:// URI of a folder that is mounted on all of them"
        )


def existing_ancestor(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def free_space(path: Path) -> int:
    """Free bytes at a path, which need not exist."""
    return shutil.disk_usage(existing_ancestor(path)).free
