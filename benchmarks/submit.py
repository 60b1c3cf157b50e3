"""How many jobs are accepted a second, and how much more than a bare route does that cost?

    python -m benchmarks.submit [--rounds N] [--seconds S] [--only default|haproxy]

A JSON submit at concurrency 16, each job on disk before its answer, in turns with a FastAPI route that only parses the same
body (benchmarks/bare.py), deployed beside ours: behind Serve's own proxy and behind HAProxy, each in a service of its own.
What is counted of the processor is all that proxies, the Ingress, the bare route and Valkey use, less what they use when
idle. Nobody works on the jobs: the one place that the Runner has is taken. Exit status 1 if ours takes over twice as much.

HAProxy as Ray 2.60 starts it listens on every interface of the machine while it is measured, and so do the replicas behind
it: `--only default` leaves that out.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import orjson
import psutil

from benchmarks.lib.harness import ROOT, SAMPLE, free_port, local_service, say, table
from benchmarks.memory import kind
from serve_app.cli.client import Client
from serve_app.local.service import LOGGING

MODES = {"default": "Serve's proxy", "haproxy": "HAProxy"}
CONCURRENCY = 16
IDLE_S = 5.0
MOST = 2.0
BODY = '{"source":{"url":"https://example.org/talk.mp3"}}'
COUNTED = ("ProxyActor", "HAProxyManager", "haproxy", "Ingress", "Bare", "valkey-server")
BUSY = {"engine": "fake", "models": "fake-0.001", "runner_jobs": 1, "runner_max_replicas": 1, "tenant_queued_jobs": 0}
"""A service whose Runner has one place, and whose engine needs hours for a window."""


@dataclass(slots=True)
class Turns:
    """What one of the two routes has done so far."""

    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    times_ms: list[float] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of processor for each request."""
        return self.cpu_s * 1000 / self.count

    def row(self) -> tuple[str, ...]:
        """The figures as cells."""
        told = quantiles(self.times_ms, n=100)
        return f"{self.count / self.seconds:.0f}", f"{told[49]:.0f} ms", f"{told[98]:.0f} ms", f"{self.cpu_ms:.2f} ms"


class Meter:
    """The processor time of all that is counted, less its idling."""

    def __init__(self) -> None:
        self._processes = [p for p in psutil.Process().children(recursive=True) if self._name(p) in COUNTED]
        before = self._used_s()
        time.sleep(IDLE_S)
        self._idle = (self._used_s() - before) / IDLE_S

    @staticmethod
    def _name(process: psutil.Process) -> str:
        return kind(process).rpartition(":")[2]

    def load(self, url: str, seconds: float, turns: Turns) -> None:
        """A turn of one route."""
        before, began = self._used_s(), time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.lib.post_load", url, BODY, str(CONCURRENCY), str(seconds)]
        found = orjson.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
        turns.cpu_s += self._used_s() - before - self._idle * (time.perf_counter() - began)
        turns.count += found["count"]
        turns.seconds += found["seconds"]
        turns.times_ms += found["times_ms"]

    def _used_s(self) -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes))


def measure(rounds: int, seconds: float, into: Path) -> None:
    """Both routes in turns, in this process's mode; what they did is written as JSON."""
    with local_service(**BUSY, ingress_max_replicas=1) as service, Client(service.url) as client:
        from ray import serve

        from benchmarks.lib.bare_route import build

        serve.run_many([serve.RunTarget(build(), "bare", "/bare", LOGGING)])
        busy = client.submit_file(SAMPLE, {}, lambda _: None)["id"]
        next(data for kind, data in client.events(busy) if data.get("phase") == "transcribing")
        routes = {"submit": f"{service.url}/v1/jobs", "bare": f"{service.url}/bare/v1/jobs"}
        meter = Meter()
        for url in routes.values():
            meter.load(url, 1.0, Turns())
        turns = {name: Turns() for name in routes}
        for _ in range(rounds):
            for name, url in routes.items():
                meter.load(url, seconds, turns[name])
        if client.get(busy)["phase"] != "transcribing":
            raise RuntimeError("the Runner was not kept busy")
        # Here, not after the service has ended: Ray may end this process when HAProxy takes its time to drain.
        into.write_bytes(orjson.dumps({name: asdict(done) for name, done in turns.items()}))


def measured_apart(mode: str, rounds: int, seconds: float) -> dict[str, Turns]:
    """`measure` in a process of its own: Ray reads its mode from the environment when it is imported."""
    with TemporaryDirectory(prefix="murmur-bench-") as folder:
        own = {
            "RAY_SERVE_ENABLE_HA_PROXY": str(int(mode == "haproxy")),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
            "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        }
        result = Path(folder) / "result.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.submit",
            f"--rounds={rounds}",
            f"--seconds={seconds}",
            f"--into={result}",
        ]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **own})
        return {name: Turns(**turns) for name, turns in orjson.loads(result.read_bytes()).items()}


def compare(modes: list[str], rounds: int, seconds: float) -> float:
    """Print the table; the greatest ratio."""
    rows, ratios = [], []
    for mode in modes:
        found = measured_apart(mode, rounds, seconds)
        ratios.append(found["submit"].cpu_ms / found["bare"].cpu_ms)
        rows += [(MODES[mode], name, *turns.row()) for name, turns in found.items()]
        rows.append((MODES[mode], "ratio", "", "", "", f"{ratios[-1]:.2f} (goal: at most {MOST:g})"))
        say(f"{MODES[mode]}: {ratios[-1]:.2f}")
    table(
        f"A submit beside a bare route, {CONCURRENCY} at once ({rounds} rounds of {seconds:g} s each)",
        ("proxy", "route", "answers a second", "p50", "p99", "processor for each"),
        rows,
    )
    return max(ratios)


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a turn takes")
    parser.add_argument("--only", choices=MODES, help="one of the two proxies")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into:
        measure(arguments.rounds, arguments.seconds, arguments.into)
        return 0
    modes = [arguments.only] if arguments.only else list(MODES)
    return int(compare(modes, arguments.rounds, arguments.seconds) > MOST)


if __name__ == "__main__":
    sys.exit(main())
