"""Is anything lost, doubled or changed when processes are killed at random?

    python -m benchmarks.chaos [--audio FILE] [--jobs N] [--kills N] [--seed N] [--deadline SECONDS]

Three tenants send recordings of several windows over HTTP and follow them, while `kill -9` falls on replicas, decoders and
the Valkey server. The fake engine's text is a fingerprint of the audio: each transcript must be that of an undisturbed run.
Exit status 1 unless everything is as it should be.
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

from benchmarks.lib.harness import SAMPLE, free_port, looped, say, service, table
from benchmarks.lib.load_scenario import Storm
from benchmarks.lib.process_killer import KINDS, Killer
from benchmarks.lib.results import Tally
from benchmarks.lib.tenant_client import Customer
from serve_app.local.valkey import url_file
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect

TENANTS = ("ash", "birch", "cedar")
LENGTHS_S = (45, 60, 75, 90, 120)
SETTINGS: dict[str, Any] = {
    "engine": "fake",
    "models": "fake-40",
    "engine_workers": 2,
    "lease_s": 3.0,
    "api_keys_required": True,
}
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write")


def chaos(audio: Path, *, jobs: int, kills: int, seed: int, deadline_s: float) -> Tally:
    """Start a service, let the storm pass over it, and stop it. It ends by itself, some time after `deadline_s` at the
    latest. All that it started is gone then; what is not is told in the tally."""
    with TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        # Each begins elsewhere in the speech: no window of one could be taken for another's.
        recordings = [
            looped(audio, seconds, folder / f"{seconds} s.mp3", start_s=1.7 * number)
            for number, seconds in enumerate(LENGTHS_S[: max(1, jobs // 4)])
        ]
        data_dir = folder / "data"
        with service(port=port, data_dir=data_dir, **SETTINGS):
            url = f"http://127.0.0.1:{port}"
            keys = asyncio.run(_keys(url_file(data_dir).read_text()))
            killer, storm = asyncio.run(_pass(url, keys, recordings, jobs, kills, seed, deadline_s))
            family = psutil.Process().children(recursive=True)
    tally = storm.tally
    tally.kills = killer.killed
    if killer.killed.total() < kills or len(killer.killed) < min(kills, len(KINDS)):
        tally.wrong.append(f"only {killer.killed.total()} of {kills} kills fell, on {len(killer.killed)} kinds")
    tally.wrong += [f"{process.pid} is still there" for process in family if process.is_running()]
    return tally


async def _keys(redis_url: str) -> list[str]:
    """A key for each tenant."""
    async with connect(redis_url) as redis:
        return [await ApiKeys(redis).create("chaos", tenant, SCOPES) for tenant in TENANTS]


async def _pass(
    url: str, keys: Sequence[str], recordings: Sequence[Path], jobs: int, kills: int, seed: int, deadline_s: float
) -> tuple[Killer, Storm]:
    async with AsyncExitStack() as stack:
        customers = [
            await stack.enter_async_context(Customer(url, key, random.Random(f"{seed} {number}")))
            for number, key in enumerate(keys)
        ]
        storm = Storm(customers, recordings, jobs)
        killer = Killer(kills, seed, storm.progress)
        try:
            async with asyncio.timeout(deadline_s):
                await storm.calm()
                with killer.at_work():
                    await storm.rage()
        except TimeoutError:
            storm.tally.wrong.append(f"given up after {deadline_s:.0f} s, {storm.progress():.0%} of the way")
        await storm.count()
        return killer, storm


def main() -> int:
    """Run it; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1200.0, help="seconds after which it is given up")
    given = parser.parse_args()
    tally = chaos(given.audio, jobs=given.jobs, kills=given.kills, seed=given.seed, deadline_s=given.deadline)
    table(f"{given.jobs} jobs of {len(TENANTS)} tenants, {given.kills} kills", ("", ""), tally.rows())
    for line in tally.wrong:
        say(f"WRONG {line}")
    return int(not tally.clean)


if __name__ == "__main__":
    sys.exit(main())
