"""Two Valkey servers on loopback, a primary and its replica, behind one address that moves at a failover."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from benchmarks.lib.fault_proxy import FaultProxy
from benchmarks.lib.harness import free_port
from serve_app.local.valkey import find_valkey

START_S = 30.0


@dataclass
class Server:
    """Valkey server with its data in `folder`."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Redis:
        return Redis(port=self.port, socket_timeout=10)

    def start(self) -> None:
        """Start, and wait until it replies. Raises TimeoutError."""
        self.folder.mkdir(exist_ok=True)
        settings = {"bind": "127.0.0.1", "port": self.port, "dir": self.folder, "save": "", "appendonly": "yes"}
        words = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
        command = [str(find_valkey()), *words, "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + START_S
        while not self._replies():
            if time.monotonic() > deadline:
                raise TimeoutError(f"Valkey did not start in {START_S:.0f} s")
            time.sleep(0.02)

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        assert self.process
        self.process.send_signal(number)

    def _replies(self) -> bool:
        try:
            with self.client as client:
                return bool(client.ping())
        except RedisError:
            return False


class RedisPair:
    """Primary and replica; `url` leads to the primary."""

    def __init__(self, folder: Path) -> None:
        self.primary, self._replica = Server(folder / "first"), Server(folder / "second")
        self.proxy = FaultProxy(self.primary.port)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}"

    @contextmanager
    def running(self) -> Iterator[RedisPair]:
        with ExitStack() as stack:
            for server in (self.primary, self._replica):
                server.start()
                stack.callback(server.kill)
            self._replicate()
            stack.enter_context(self.proxy.running())
            yield self

    def promote_replica(self) -> None:
        """Fail over; clients that stay connected to the old primary meet a read-only replica. Raises TimeoutError."""
        with self.primary.client as old, self._replica.client as new:
            old.execute_command("FAILOVER", "TO", "127.0.0.1", str(self._replica.port))
            deadline = time.monotonic() + START_S
            while new.info("replication")["role"] != "master":
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the replica was not promoted in {START_S:.0f} s")
                time.sleep(0.05)
        self.primary, self._replica = self._replica, self.primary

    def move_address(self) -> None:
        """Lead `url` to the primary."""
        self.proxy.retarget(self.primary.port)

    def _replicate(self) -> None:
        with self._replica.client as replica:
            replica.replicaof("127.0.0.1", str(self.primary.port))
            deadline = time.monotonic() + START_S
            while replica.info("replication")["master_link_status"] != "up":
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the replica did not connect in {START_S:.0f} s")
                time.sleep(0.05)
