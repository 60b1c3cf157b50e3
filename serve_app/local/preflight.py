"""What a start needs of the machine, looked at before anything is started, so that what is missing is one clear line."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from redis import Redis
from redis.exceptions import RedisError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class StartError(Exception):
    """The service cannot start; one line that says why and what to do about it."""


@contextmanager
def temporary_directory() -> Iterator[str]:
    """A folder for sockets, and for what Ray keeps below it and writes to until its end."""
    # A socket's path holds 107 bytes, of which Ray's longest takes 80 below this folder.
    short = "/tmp" if len(tempfile.gettempdir()) > 10 and Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp
    directory = tempfile.mkdtemp(prefix="murmur-", dir=short)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def check_host(host: str, *, keyed: bool, open_to_all: bool) -> None:
    """Without keys nothing is served beyond this machine, unless that is what is wanted."""
    if host not in LOOPBACK and not keyed and not open_to_all:
        raise StartError(
            f"refused to listen on {host} without keys: set MURMUR_API_KEYS_REQUIRED=true and make some with `murmur keys "
            "create`, or say --allow-anonymous"
        )


def check_port(host: str, port: int, *, rested: bool = False) -> None:
    """Ray's proxy shares its port with whoever asks for sharing: so look, before it does, whether somebody has it. `rested`
    refuses one that was used a minute ago as well, as those do who bind without SO_REUSEADDR."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(not rested))
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError as error:
            raise StartError(f"port {port} on {host} cannot be had ({error.strerror}): choose another by --port") from None


def free_port(wanted: int) -> int:
    """The first free port on loopback from `wanted` on."""
    for port in range(wanted, wanted + 50):
        try:
            check_port("127.0.0.1", port, rested=True)  # Ray's dashboard is one of those
        except StartError:
            continue
        return port
    raise StartError(f"no port from {wanted} on is free for the dashboard: set MURMUR_DASHBOARD_PORT")


@contextmanager
def in_turn(interrupted: Event) -> Iterator[None]:
    """One start after another, so that who found a free port has it before the next one looks; not waited for once
    `interrupted`."""
    with Path(tempfile.gettempdir(), f".murmur-{os.getuid()}.start").open("a") as lock:
        while not interrupted.is_set():
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                interrupted.wait(0.1)
        yield


@contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two services in one would overwrite each other's jobs."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartError(f"the data directory {data_dir} cannot be used ({error.strerror})") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StartError(f"another murmur uses {data_dir}: stop it, or choose another by --data-dir") from None
        yield


def check_redis(url: str) -> None:
    """Whether a server answers there."""
    try:
        client = Redis.from_url(url, socket_timeout=5, socket_connect_timeout=5)
        client.ping()
        client.close()
    except (RedisError, ValueError) as error:
        raise StartError(f"no Redis answers at {url.rpartition('@')[2]}: {error}") from None


def check_ray(address: str) -> None:
    """Ray itself would try a dead address for a minute."""
    host, _, port = address.rpartition(":")
    if address == "auto" or not port.isdecimal():
        return
    try:
        socket.create_connection((host.removeprefix("ray://") or "127.0.0.1", int(port)), 5).close()
    except OSError as error:
        raise StartError(f"no Ray cluster answers at {address} ({error.strerror or error})") from None


def free_space(path: Path) -> int:
    """Bytes free where `path` lies, or will lie."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
