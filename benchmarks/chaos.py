"""Fault injection: `kill -9` on random processes of a loaded service. Exit status 1 if a job or segment is lost,
duplicated or changed.

    python -m benchmarks.chaos [--audio FILE] [--jobs N] [--kills N] [--seed N] [--deadline SECONDS]
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.lib.harness import SAMPLE, echo, free_port, looped, service, table
from benchmarks.lib.load_scenario import LoadScenario
from benchmarks.lib.process_killer import KINDS, ProcessKiller
from benchmarks.lib.results import OutcomeCounts
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
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write")


def chaos(audio: Path, *, jobs: int, kills: int, seed: int, deadline_s: float) -> OutcomeCounts:
    """Run the scenario against a new service; it stops soon after `deadline_s` at the latest."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        # Each starts at another offset, so that no two recordings share a window.
        recordings = [
            looped(audio, seconds, folder / f"{seconds} s.mp3", start_s=1.7 * number)
            for number, seconds in enumerate(LENGTHS_S[: max(1, jobs // 4)])
        ]
        data_dir = folder / "data"
        with service(port=port, data_dir=data_dir, **SETTINGS):
            url = f"http://127.0.0.1:{port}"
            keys = asyncio.run(_create_keys(url_file(data_dir).read_text()))
            killer, scenario = asyncio.run(_run(url, keys, recordings, jobs, kills, seed, deadline_s))
            processes = psutil.Process().children(recursive=True)
    counts = scenario.counts
    counts.kills = killer.killed
    if killer.killed.total() < kills or len(killer.killed) < min(kills, len(KINDS)):
        counts.faults.append(f"only {killer.killed.total()} of {kills} kills, on {len(killer.killed)} kinds of process")
    counts.faults += [f"process {process.pid} outlives the service" for process in processes if process.is_running()]
    return counts


async def _create_keys(redis_url: str) -> list[str]:
    async with connect(redis_url) as redis:
        return [await ApiKeys(redis).create("chaos", tenant, SCOPES) for tenant in TENANTS]


async def _run(
    url: str, keys: Sequence[str], recordings: Sequence[Path], jobs: int, kills: int, seed: int, deadline_s: float
) -> tuple[ProcessKiller, LoadScenario]:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(TenantClient(url, key, random.Random(f"{seed} {number}")))
            for number, key in enumerate(keys)
        ]
        scenario = LoadScenario(clients, recordings, jobs)
        killer = ProcessKiller(kills, seed, scenario.progress)
        try:
            async with asyncio.timeout(deadline_s):
                await scenario.learn_expected()
                with killer.running():
                    await scenario.run()
        except TimeoutError:
            scenario.counts.faults.append(
                f"deadline of {deadline_s:.0f} s exceeded at {scenario.progress():.0%} of the jobs"
            )
        await scenario.compare_lists()
        return killer, scenario


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1200.0, help="seconds after which the run is stopped")
    options = parser.parse_args()
    counts = chaos(options.audio, jobs=options.jobs, kills=options.kills, seed=options.seed, deadline_s=options.deadline)
    table("Chaos", (f"{options.jobs} jobs of {len(TENANTS)} tenants", f"{options.kills} kills"), counts.rows())
    for fault in counts.faults:
        echo(f"FAULT: {fault}")
    return int(not counts.passed)


if __name__ == "__main__":
    sys.exit(main())
