"""Fault injection: `kill -9` on random processes of a loaded service; with --storm, trouble of Redis and storage. Exit
status 1 if a job or segment is lost, duplicated or changed.

    python -m benchmarks.chaos [--audio FILE] [--jobs N] [--kills N] [--seed N] [--deadline SECONDS]
    python -m benchmarks.chaos --storm [--only s3|disk] [--seconds SECONDS] [--jobs N] [--seed N] [--deadline SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any, TypeVar

import psutil

from benchmarks.lib.harness import SAMPLE, echo, free_port, looped, service, table
from benchmarks.lib.load_scenario import LoadScenario
from benchmarks.lib.process_killer import KINDS, ProcessKiller
from benchmarks.lib.redis_pair import RedisPair
from benchmarks.lib.results import OutcomeCounts
from benchmarks.lib.storm import Storm, disk_trouble, redis_troubles, s3_server, small_disk, storage_troubles, worker_trouble
from benchmarks.lib.tenant_client import TenantClient
from serve_app.local.valkey import url_file
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect

TENANTS = ("ash", "birch", "cedar")
LENGTHS_S = (45, 60, 75, 90, 120)
# The text of the fake engine is a fingerprint of the audio: a lost or swapped window changes the transcript.
SETTINGS: dict[str, Any] = {
    "engine": "fake",
    "models": "fake-40",
    "engine_workers": 2,
    "lease_s": 3.0,
    "api_keys_required": True,
}
DISK_MIB, JOB_MIB = 64, 6  # of the small disk: recordings and decoded audio are kept
Disturbance = TypeVar("Disturbance", ProcessKiller, Storm)
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write")


def chaos(audio: Path, *, jobs: int, kills: int, seed: int, deadline_s: float) -> OutcomeCounts:
    """Run the scenario with killed processes against a new service; it stops soon after `deadline_s` at the latest."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        recordings = _recordings(audio, jobs, folder)
        data_dir = folder / "data"
        with service(port=port, data_dir=data_dir, **SETTINGS):
            url = f"http://127.0.0.1:{port}"
            keys = asyncio.run(_create_keys(url_file(data_dir).read_text()))

            def killer_of(scenario: LoadScenario) -> ProcessKiller:
                return ProcessKiller(kills, seed, scenario.progress)

            killer, scenario = asyncio.run(_run(url, keys, recordings, jobs, seed, deadline_s, killer_of))
            processes = psutil.Process().children(recursive=True)
    counts = scenario.counts
    counts.kills = killer.killed
    if killer.killed.total() < kills or len(killer.killed) < min(kills, len(KINDS)):
        counts.faults.append(f"only {killer.killed.total()} of {kills} kills, on {len(killer.killed)} kinds of process")
    counts.faults += [f"process {process.pid} outlives the service" for process in processes if process.is_running()]
    return counts


def storm(
    audio: Path, *, on_disk: bool, jobs: int, seconds: float, seed: int, deadline_s: float, hang: bool = True
) -> OutcomeCounts | None:
    """Run the scenario through trouble of Redis, of storage in S3, or on a small disk, and of a worker that may `hang`, for
    `seconds` each. Returns None where no small disk can be mounted."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        recordings = _recordings(audio, jobs, folder)
        pair = stack.enter_context(RedisPair(folder).running())
        if on_disk:
            disk = folder / "disk"
            if not stack.enter_context(small_disk(disk, DISK_MIB + JOB_MIB * jobs)):
                return None
            uri, troubles = (disk / "artifacts").as_uri(), [disk_trouble(disk)]
        else:
            proxy, uri = stack.enter_context(s3_server())
            hanging = [worker_trouble(seconds)] if hang else []
            troubles = [*redis_troubles(pair), *storage_troubles(proxy), *hanging]
        settings = {**SETTINGS, "redis_url": pair.url, "storage_uri": uri, "min_free_bytes": 8 << 20}
        stack.enter_context(service(port=port, data_dir=folder / "data", **settings))

        def storm_of(scenario: LoadScenario) -> Storm:
            return Storm(troubles, seconds, scenario.progress)

        keys = asyncio.run(_create_keys(pair.url))
        url = f"http://127.0.0.1:{port}"
        weather, scenario = asyncio.run(_run(url, keys, recordings, jobs, seed, deadline_s, storm_of, {"max_attempts": "1"}))
    counts = scenario.counts
    counts.troubles = weather.passed
    counts.faults += weather.faults
    counts.faults += [f"{trouble.name}: not reached" for trouble in troubles[len(weather.passed) + len(weather.faults) :]]
    return counts


def _recordings(audio: Path, jobs: int, folder: Path) -> list[Path]:
    # Each starts at another offset, so that no two recordings share a window.
    return [
        looped(audio, seconds, folder / f"{seconds} s.mp3", start_s=1.7 * number)
        for number, seconds in enumerate(LENGTHS_S[: max(1, jobs // 4)])
    ]


async def _create_keys(redis_url: str) -> list[str]:
    async with connect(redis_url) as redis:
        return [await ApiKeys(redis).create("chaos", tenant, SCOPES) for tenant in TENANTS]


async def _run(
    url: str,
    keys: Sequence[str],
    recordings: Sequence[Path],
    jobs: int,
    seed: int,
    deadline_s: float,
    disturb: Callable[[LoadScenario], Disturbance],
    options: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Disturbance, LoadScenario]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(TenantClient(url, key, random.Random(f"{seed} {number}")))
            for number, key in enumerate(keys)
        ]
        scenario = LoadScenario(clients, recordings, jobs, options)
        disturbance = disturb(scenario)
        try:
            async with asyncio.timeout(deadline_s):
                await scenario.learn_expected()
                with disturbance.running():
                    await scenario.run()
        except TimeoutError:
            scenario.counts.faults.append(
                f"deadline of {deadline_s:.0f} s exceeded at {scenario.progress():.0%} of the jobs"
            )
        await scenario.compare_lists()
        return disturbance, scenario


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1200.0, help="seconds after which the run is stopped")
    parser.add_argument("--storm", action="store_true", help="trouble of Redis, storage and a worker instead of kills")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each trouble of the storm")
    parser.add_argument("--only", choices=("s3", "disk"), help="one of the storm's two storages")
    options = parser.parse_args()
    common = {"jobs": options.jobs, "seed": options.seed, "deadline_s": options.deadline}
    if not options.storm:
        return _report("Chaos", f"{options.kills} kills", chaos(options.audio, kills=options.kills, **common))
    failed = 0
    for name, title in (("s3", "Storm, storage in S3"), ("disk", "Storm, storage on a small disk")):
        if options.only not in (None, name):
            continue
        on_disk = name == "disk"
        if counts := storm(options.audio, on_disk=on_disk, seconds=options.seconds, **common):
            failed |= _report(title, f"{options.seconds:g} s each", counts)
        else:
            echo(f"{title}: not run, a tmpfs cannot be mounted here")
    return failed


def _report(title: str, column: str, counts: OutcomeCounts) -> int:
    """Print the counts. Returns the exit status."""
    table(title, (f"{counts.jobs} jobs of {len(TENANTS)} tenants", column), counts.rows())
    for fault in counts.faults:
        echo(f"FAULT: {fault}")
    return int(not counts.passed)


if __name__ == "__main__":
    sys.exit(main())
