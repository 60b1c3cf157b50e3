"""Do a thousand readers of event streams all hear the same, and does Redis notice how many they are?

    python -m benchmarks.sse_fanout [--readers N] [--jobs N] [--minutes M] [--pace P] [--seed N]

A few jobs run on the fake engine, which decodes one window after another at P times real time. Readers follow them through
one Ingress replica, half of them hanging up after a few events and resuming by Last-Event-ID, again and again. Watched
meanwhile: the Ingress' connections to Redis, its memory, what it and the proxy use of the processor, and the time from an
event's creation (its id tells it) to its arrival. Exit status 1 if a stream is incomplete or differs from another of the
same job, or if the Ingress has more connections with all readers than with ten.
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

from benchmarks.lib.harness import SAMPLE, local_service, looped, say, table
from benchmarks.lib.sse_reader import Reader, complete
from benchmarks.memory import MB, kind
from serve_app.cli.client import Client
from serve_app.local.service import LocalService

FEW = 10
STAGE_S = 10.0
EVERY_S = 0.5
BURST = 100
"""Requests at once before anybody reads: they fill the pool of connections, which is bounded and serves all requests. What
is asked here is whether readers take any beyond it."""
PATIENCE_S = 900.0


@dataclass(slots=True)
class Seen:
    """What was seen while so many readers were there: at the most, and the seconds of processor used."""

    readers: int
    clients: int = 0
    resident: int = 0
    cpu_s: float = 0.0


class Watch:
    """Looks at the Ingress process and its connections to Redis, and at the proxy."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url)
        found = {kind(process): process for process in psutil.Process().children(recursive=True)}
        self._ingress, self._proxy = found["Ingress"], found["ProxyActor"]

    def reads(self) -> int:
        """How often a stream was read, ever."""
        return int(self._redis.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"])

    async def until(self, over: asyncio.Future[Any], seen: Seen) -> Seen:
        """Look until then."""
        before = self._cpu_s()
        while not over.done():
            await asyncio.to_thread(self._look, seen)
            await asyncio.wait([over], timeout=EVERY_S)
        seen.cpu_s = self._cpu_s() - before
        return seen

    def _look(self, seen: Seen) -> None:
        clients = [client for client in self._redis.client_list() if client["name"] == "ingress"]
        seen.clients = max(seen.clients, len(clients))
        seen.resident = max(seen.resident, self._ingress.memory_info().rss)

    def _cpu_s(self) -> float:
        return sum(times.user + times.system for times in (p.cpu_times() for p in (self._ingress, self._proxy)))


async def follow_all(service: LocalService, readers: list[Reader]) -> tuple[list[Seen], int]:
    """Let a few readers in, then all, until the jobs' end; what was seen meanwhile, and how often streams were read."""
    watch = Watch(service.redis_url)
    async with httpx.AsyncClient(base_url=service.url, trust_env=False, timeout=60.0) as client:
        await asyncio.gather(*(client.get(f"/v1/jobs/{readers[0].job_id}") for _ in range(BURST)))
    seen = [await watch.until(_after(STAGE_S), Seen(0))]
    before = watch.reads()
    following = [asyncio.create_task(reader.follow()) for reader in readers[:FEW]]
    seen.append(await watch.until(_after(STAGE_S), Seen(FEW)))
    following += [asyncio.create_task(reader.follow()) for reader in readers[FEW:]]
    everyone = asyncio.ensure_future(asyncio.wait_for(asyncio.gather(*following), PATIENCE_S))
    seen.append(await watch.until(everyone, Seen(len(readers))))
    await everyone
    return seen, watch.reads() - before


def _after(seconds: float) -> asyncio.Future[Any]:
    return asyncio.ensure_future(asyncio.sleep(seconds))


def begin(service: LocalService, recording: Path, jobs: int) -> list[str]:
    """Jobs of one recording, all decoded and being transcribed."""
    with Client(service.url) as client:
        ids = [client.submit_file(recording, {}, lambda _: None)["id"] for _ in range(jobs)]
        for job_id in ids:
            next(data for kind, data in client.events(job_id) if kind == "progress" and data["audio_total_s"])
    return ids


def measure(count: int, jobs: int, minutes: float, pace: float, seed: int) -> bool:
    """Print the table; whether all is well."""
    settings = {
        "engine": "fake",
        "models": f"fake-{pace:g}",
        "engine_workers": 1,
        "batch_size": 1,
        "ingress_max_replicas": 1,
    }
    with TemporaryDirectory() as folder, local_service(**settings) as service:
        ids = begin(service, looped(SAMPLE, minutes * 60, Path(folder) / "recording.mp3"), jobs)
        say(f"{jobs} jobs are running")
        dice = Random(seed)
        readers = [
            Reader(service.url, ids[number % jobs], Random(dice.random()) if number % (2 * jobs) < jobs else None)
            for number in range(count)
        ]
        seen, reads = asyncio.run(follow_all(service, readers))
    streams = {job_id: [r.frames for r in readers if r.job_id == job_id] for job_id in ids}
    same = all(complete(of[0]) and all(other == of[0] for other in of) for of in streams.values())
    events = sum(len(of[0]) for of in streams.values())
    told = quantiles((d for reader in readers for d in reader.delays_ms), n=100)
    cuts = Counter(cut for reader in readers for cut in reader.cuts)
    for cut, times in cuts.most_common(3):
        say(f"broke {times} times: {cut}")
    few, most = seen[1], seen[2]
    table(
        f"{count} readers of {jobs} jobs on one Ingress replica",
        ("", *(f"{s.readers} readers" for s in seen), ""),
        [
            ("Ingress' connections to Redis", *(s.clients for s in seen), "goal: no more with all than with ten"),
            ("Ingress, resident", *(f"{s.resident / MB:.0f} MB" for s in seen), ""),
            ("processor, Ingress and proxy", *(f"{s.cpu_s:.1f} s" for s in seen), ""),
            ("streams identical and complete", "", "", "yes" if same else "NO", "goal: yes"),
            ("events of all jobs", "", "", events, ""),
            ("events delivered", "", "", sum(len(r.frames) for r in readers), ""),
            ("connections dropped and resumed", "", "", sum(r.connections - 1 - len(r.cuts) for r in readers), ""),
            ("connections that broke", "", "", cuts.total(), ""),
            ("reads of streams in Redis", "", "", reads, ""),
            ("delay of an event, p50", "", "", f"{told[49]:.0f} ms", ""),
            ("delay of an event, p99", "", "", f"{told[98]:.0f} ms", ""),
        ],
    )
    return same and most.clients <= few.clients


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=5.0, help="length of the recording")
    parser.add_argument("--pace", type=float, default=10.0, help="times real time")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return int(not measure(arguments.readers, arguments.jobs, arguments.minutes, arguments.pace, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
