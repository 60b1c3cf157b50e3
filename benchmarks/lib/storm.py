"""Storm: trouble of Redis, storage and workers, one after another, while jobs run."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from redis.exceptions import RedisError

from benchmarks.lib.background import in_background
from benchmarks.lib.fault_proxy import Fault, FaultProxy
from benchmarks.lib.harness import echo
from benchmarks.lib.process_killer import descendants
from benchmarks.lib.redis_pair import RedisPair

POLL_S = 0.05
LAST_PROGRESS = 0.8  # the last trouble too must hit work
WORKER_S = 120.0  # a worker that is not replaced by then is a fault
FILLER = "filler"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that goes wrong, and its end."""

    name: str
    begin: Callable[[], None]
    end: Callable[[], None]


class Storm:
    """Runs `troubles` in turn, `seconds` each, spread over a `progress` from 0 to 1."""

    def __init__(self, troubles: Sequence[Trouble], seconds: float, progress: Callable[[], float]) -> None:
        self._troubles = troubles
        self._seconds = seconds
        self._progress = progress
        self._stop = threading.Event()
        self.passed: list[str] = []
        self.faults: list[str] = []

    def running(self) -> AbstractContextManager[None]:
        """Run in a background thread."""
        return in_background("storm", self._run, self._stop)

    def _run(self) -> None:
        began = time.monotonic()
        for number, trouble in enumerate(self._troubles):
            while self._progress() < number * LAST_PROGRESS / len(self._troubles):
                if self._stop.wait(POLL_S):
                    return
            echo(f"{time.monotonic() - began:6.1f} s, {self._progress():4.0%} done: {trouble.name}")
            try:
                trouble.begin()
                self._stop.wait(self._seconds)
                trouble.end()
                self.passed.append(trouble.name)
            except (OSError, RedisError, RuntimeError) as error:
                self.faults.append(f"{trouble.name}: {type(error).__name__}: {error}")


def redis_troubles(pair: RedisPair) -> list[Trouble]:
    """Redis killed, paused, full, read-only and failed over."""

    def configure(**settings: str) -> None:
        with pair.primary.client as client:
            for name, value in settings.items():
                client.config_set(name.replace("_", "-"), value)

    return [
        Trouble("Redis killed", lambda: pair.primary.kill(), lambda: pair.primary.start()),
        Trouble("Redis paused", lambda: pair.primary.send(signal.SIGSTOP), lambda: pair.primary.send(signal.SIGCONT)),
        Trouble("Redis full", lambda: configure(maxmemory="1"), lambda: configure(maxmemory="0")),
        # A primary that demands a replica that is not there refuses writes, as a demoted one does.
        Trouble(
            "Redis refuses writes",
            lambda: configure(min_replicas_to_write="2"),
            lambda: configure(min_replicas_to_write="0"),
        ),
        Trouble("Redis failed over, read-only at its address", pair.promote_replica, pair.move_address),
    ]


def storage_troubles(proxy: FaultProxy) -> list[Trouble]:
    """S3 that answers 503, is slow, breaks off uploads, is full, cannot be reached."""
    names = {
        Fault.BUSY: "S3 answers 503",
        Fault.SLOW: "S3 slow, 5 s a call",
        Fault.CUT: "S3 cut in mid-upload",
        Fault.FULL: "S3 full",
        Fault.REFUSE: "S3 unreachable",
    }
    end = partial(proxy.inject, Fault.NONE)
    return [Trouble(name, partial(proxy.inject, fault), end) for fault, name in names.items()]


@contextmanager
def s3_server() -> Iterator[tuple[FaultProxy, str]]:
    """S3 server (moto) behind a proxy; yields the proxy and the URI of a bucket."""
    # Of the development packages, and of no use to the other benchmarks.
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # it logs every request, and those that are cut
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        access = {"aws_access_key_id": "storm", "aws_secret_access_key": "storm-secret", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **access).create_bucket(Bucket="storm")
        with FaultProxy(port).running() as proxy:
            query = f"endpoint_override=127.0.0.1:{proxy.port}&scheme=http&region=us-east-1"
            yield proxy, f"s3://storm:storm-secret@storm/artifacts?{query}"
    finally:
        server.stop()


@contextmanager
def small_disk(folder: Path, size_mib: int) -> Iterator[bool]:
    """Mount a file system in memory at `folder`; False where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def disk_trouble(folder: Path) -> Trouble:
    """Fill the disk of `folder`."""

    def fill() -> None:
        with (folder / FILLER).open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    return Trouble("disk full", fill, lambda: (folder / FILLER).unlink())


def worker_trouble(seconds: float) -> Trouble:
    """Stop a Transcriber without ending it; at the end it must have been replaced."""
    stopped: list[psutil.Process] = []

    def hang() -> None:
        stopped[:] = descendants("Transcriber")[:1]
        if not stopped:
            raise RuntimeError("there is no Transcriber")
        stopped[0].suspend()

    def check() -> None:
        deadline = time.monotonic() + max(WORKER_S - seconds, 0.0)
        while stopped[0].is_running() and stopped[0].status() != psutil.STATUS_ZOMBIE:
            if time.monotonic() > deadline:
                stopped[0].resume()
                raise RuntimeError(f"a Transcriber that hangs was not replaced in {WORKER_S:.0f} s")
            time.sleep(POLL_S)

    return Trouble("a Transcriber hangs", hang, check)
