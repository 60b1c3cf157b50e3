"""Throughput and CPU cost of JSON submits beside a bare FastAPI route, behind Serve's proxy and HAProxy, which listens on
all interfaces meanwhile. Exit status 1 if a goal is missed.

    python -m benchmarks.submit [--rounds N] [--seconds S] [--only default|haproxy]
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

from benchmarks.lib.harness import ROOT, SAMPLE, echo, free_port, local_service, table
from benchmarks.memory import kind
from serve_app.cli.client import Client
from serve_app.local.deployment import LOGGING

MODES = {"default": "Serve's proxy", "haproxy": "HAProxy"}
CONCURRENCY = 16
IDLE_S = 5.0
MAX_RATIO = 2.0
BODY = '{"source":{"url":"https://example.org/talk.mp3"}}'
# Processes whose CPU time counts, less what they use when idle.
COUNTED = ("ProxyActor", "HAProxyManager", "haproxy", "Ingress", "BareRoute", "valkey-server")
# No submitted job is worked on: the Runner has one slot, which a job occupies whose windows take hours.
BUSY = {"engine": "fake", "models": "fake-0.001", "runner_jobs": 1, "runner_max_replicas": 1, "tenant_queued_jobs": 0}


@dataclass(slots=True)
class RouteTotals:
    """Responses, seconds and CPU time of a route."""

    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    times_ms: list[float] = field(default_factory=list)

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per request."""
        return self.cpu_s * 1000 / self.count

    def row(self) -> tuple[str, ...]:
        percentiles = quantiles(self.times_ms, n=100)
        return (
            f"{self.count / self.seconds:.0f}",
            f"{percentiles[49]:.0f} ms",
            f"{percentiles[98]:.0f} ms",
            f"{self.cpu_ms:.2f} ms",
        )


class CpuMeter:
    """Measures CPU time of the counted processes, less their idle consumption."""

    def __init__(self) -> None:
        self._processes = [p for p in psutil.Process().children(recursive=True) if self._name(p) in COUNTED]
        before = self._used_s()
        time.sleep(IDLE_S)
        self._idle = (self._used_s() - before) / IDLE_S

    @staticmethod
    def _name(process: psutil.Process) -> str:
        return kind(process).rpartition(":")[2]

    def load(self, url: str, seconds: float, totals: RouteTotals) -> None:
        before, began = self._used_s(), time.perf_counter()
        command = [sys.executable, "-m", "benchmarks.lib.post_load", url, BODY, str(CONCURRENCY), str(seconds)]
        result = orjson.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
        totals.cpu_s += self._used_s() - before - self._idle * (time.perf_counter() - began)
        totals.count += result["count"]
        totals.seconds += result["seconds"]
        totals.times_ms += result["times_ms"]

    def _used_s(self) -> float:
        return sum(times.user + times.system for times in (process.cpu_times() for process in self._processes))


def measure(rounds: int, seconds: float, into: Path) -> None:
    """Measure both routes in turn, and write their totals as JSON."""
    with local_service(**BUSY, ingress_max_replicas=1) as service, Client(service.url) as client:
        from ray import serve

        from benchmarks.lib.bare_route import build

        serve.run_many([serve.RunTarget(build(), "bare", "/bare", LOGGING)])
        busy = client.submit_file(SAMPLE, {}, lambda _: None)["id"]
        next(data for kind, data in client.events(busy) if data.get("phase") == "transcribing")
        routes = {"submit": f"{service.url}/v1/jobs", "bare route": f"{service.url}/bare/v1/jobs"}
        meter = CpuMeter()
        for url in routes.values():
            meter.load(url, 1.0, RouteTotals())
        totals = {name: RouteTotals() for name in routes}
        for _ in range(rounds):
            for name, url in routes.items():
                meter.load(url, seconds, totals[name])
        if client.get(busy)["phase"] != "transcribing":
            raise RuntimeError("the Runner became free")
        # Before the service stops: Ray may kill this process while HAProxy drains.
        into.write_bytes(orjson.dumps({name: asdict(route) for name, route in totals.items()}))


# A new process: Ray reads the proxy mode from the environment on import.
def measure_in_process(mode: str, rounds: int, seconds: float) -> dict[str, RouteTotals]:
    with TemporaryDirectory(prefix="murmur-bench-") as folder:
        environment = {
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
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **environment})
        return {name: RouteTotals(**route) for name, route in orjson.loads(result.read_bytes()).items()}


def compare(modes: list[str], rounds: int, seconds: float) -> float:
    """Print the table; the greatest ratio."""
    rows, ratios = [], []
    for mode in modes:
        totals = measure_in_process(mode, rounds, seconds)
        ratios.append(totals["submit"].cpu_ms / totals["bare route"].cpu_ms)
        rows += [(MODES[mode], name, *route.row()) for name, route in totals.items()]
        rows.append((MODES[mode], "ratio", "", "", "", f"{ratios[-1]:.2f} (goal: at most {MAX_RATIO:g})"))
        echo(f"{MODES[mode]}: {ratios[-1]:.2f}")
    table(
        f"Submit beside a bare route, concurrency {CONCURRENCY} ({rounds} rounds of {seconds:g} s each)",
        ("proxy", "route", "responses/s", "p50", "p99", "CPU per request"),
        rows,
    )
    return max(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round")
    parser.add_argument("--only", choices=MODES, help="measure one of the two proxies")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.into:
        measure(arguments.rounds, arguments.seconds, arguments.into)
        return 0
    modes = [arguments.only] if arguments.only else list(MODES)
    return int(compare(modes, arguments.rounds, arguments.seconds) > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
