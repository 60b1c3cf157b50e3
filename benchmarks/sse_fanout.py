"""SSE fan-out: a thousand clients on one Ingress replica, half of which disconnect and resume again and again. Exit status
1 if streams differ or are incomplete, or need more Redis connections than those of ten clients.

    python -m benchmarks.sse_fanout [--readers N] [--jobs N] [--minutes M] [--pace P] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from redis import Redis

from benchmarks.lib.harness import SAMPLE, echo, local_service, looped, table
from benchmarks.lib.sse_reader import SseReader, is_complete
from benchmarks.memory import MB, kind
from serve_app.cli.client import Client
from serve_app.local.service import LocalService

FEW = 10
STAGE_S = 10.0
POLL_S = 0.5
# Concurrent requests before the first reader. They fill the bounded connection pool, so that later growth is the readers'.
BURST = 100
TIMEOUT_S = 900.0


@dataclass(slots=True)
class StageUsage:
    """Peak resources while a number of readers is connected."""

    readers: int
    connections: int = 0  # of the Ingress to Redis
    resident: int = 0  # bytes
    cpu_s: float = 0.0  # of Ingress and proxy


class ResourceMonitor:
    """Polls the Ingress, its connections to Redis, and the proxy."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url)
        processes = {kind(process): process for process in psutil.Process().children(recursive=True)}
        self._ingress, self._proxy = processes["Ingress"], processes["ProxyActor"]

    def stream_reads(self) -> int:
        return int(self._redis.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])

    async def record(self, end: asyncio.Future[Any], readers: int) -> StageUsage:
        """Poll until `end` is done."""
        usage, before = StageUsage(readers), self._cpu_s()
        while not end.done():
            await asyncio.to_thread(self._poll, usage)
            await asyncio.wait([end], timeout=POLL_S)
        usage.cpu_s = self._cpu_s() - before
        return usage

    def _poll(self, usage: StageUsage) -> None:
        clients = [client for client in self._redis.client_list() if client["name"] == "ingress"]
        usage.connections = max(usage.connections, len(clients))
        usage.resident = max(usage.resident, self._ingress.memory_info().rss)

    def _cpu_s(self) -> float:
        return sum(times.user + times.system for times in (p.cpu_times() for p in (self._ingress, self._proxy)))


async def follow_all(service: LocalService, readers: list[SseReader]) -> tuple[list[StageUsage], int]:
    """Connect a few readers, then all, until the jobs end; usage of each stage, and reads of streams."""
    monitor = ResourceMonitor(service.redis_url)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60.0) as client:
        await asyncio.gather(*(client.get(f"/v1/jobs/{readers[0].job_id}") for _ in range(BURST)))
    usages = [await monitor.record(_after(STAGE_S), 0)]
    before = monitor.stream_reads()
    following = [asyncio.create_task(reader.follow()) for reader in readers[:FEW]]
    usages.append(await monitor.record(_after(STAGE_S), FEW))
    following += [asyncio.create_task(reader.follow()) for reader in readers[FEW:]]
    ended = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*following), TIMEOUT_S))
    usages.append(await monitor.record(ended, len(readers)))
    await ended
    return usages, monitor.stream_reads() - before


def _after(seconds: float) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.sleep(seconds))


def start_jobs(service: LocalService, recording: Path, jobs: int) -> list[str]:
    """Submit jobs and wait until all are transcribing; their ids."""
    with Client(service.url) as client:
        ids = [client.submit_file(recording, {}, lambda _: None)["id"] for _ in range(jobs)]
        for job_id in ids:
            next(data for kind, data in client.events(job_id) if kind == "progress" and data["audio_total_s"])
    return ids


def measure(count: int, jobs: int, minutes: float, pace: float, seed: int) -> bool:
    """Print the table; whether the goals are met."""
    settings = {
        "engine": "fake",
        "models": f"fake-{pace:g}",
        "engine_workers": 1,
        "batch_size": 1,
        "ingress_max_replicas": 1,
    }
    with TemporaryDirectory() as folder, local_service(**settings) as service:
        ids = start_jobs(service, looped(SAMPLE, minutes * 60, Path(folder) / "recording.mp3"), jobs)
        echo(f"{jobs} jobs are running")
        dice = Random(seed)
        readers = [
            SseReader(service.url, ids[number % jobs], Random(dice.random()) if number % (2 * jobs) < jobs else None)
            for number in range(count)
        ]
        usages, reads = asyncio.run(follow_all(service, readers))
    identical, events = True, 0
    for job_id in ids:
        first, *others = [reader.frames for reader in readers if reader.job_id == job_id]
        identical &= is_complete(first) and all(frames == first for frames in others)
        events += len(first)
    latencies_ms = quantiles((delay for reader in readers for delay in reader.delays_ms), n=100)
    failures = Counter(failure for reader in readers for failure in reader.failures)
    for failure, times in failures.most_common(3):
        echo(f"connections that broke, {times} times: {failure}")
    table(
        f"{count} clients of {jobs} jobs on one Ingress replica",
        ("", *(f"{usage.readers} clients" for usage in usages), ""),
        [
            (
                "connections of the Ingress to Redis",
                *(u.connections for u in usages),
                "goal: no more with all than with ten",
            ),
            ("Ingress, resident memory", *(f"{usage.resident / MB:.0f} MB" for usage in usages), ""),
            ("CPU time, Ingress and proxy", *(f"{usage.cpu_s:.1f} s" for usage in usages), ""),
            ("streams identical and complete", "", "", "yes" if identical else "NO", "goal: yes"),
            ("events in all streams", "", "", events, ""),
            ("events delivered", "", "", sum(len(r.frames) for r in readers), ""),
            ("connections dropped and resumed", "", "", sum(r.connections - 1 - len(r.failures) for r in readers), ""),
            ("connections that broke", "", "", failures.total(), ""),
            ("reads of streams in Redis", "", "", reads, ""),
            ("latency of an event, p50", "", "", f"{latencies_ms[49]:.0f} ms", ""),
            ("latency of an event, p99", "", "", f"{latencies_ms[98]:.0f} ms", ""),
        ],
    )
    return identical and usages[2].connections <= usages[1].connections


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the recording")
    parser.add_argument("--pace", type=float, default=10.0, help="times real time")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.minutes * 60 / arguments.pace < 3 * STAGE_S:
        parser.error("the jobs would end before all readers are connected: use more --minutes or a lower --pace")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return int(not measure(arguments.readers, arguments.jobs, arguments.minutes, arguments.pace, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
