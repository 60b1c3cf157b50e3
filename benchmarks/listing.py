"""Latency of pages of Koldan's job list, by length of the list. Exit status 1 if a goal is missed.

python -m benchmarks.listing [--jobs N] [--rounds N]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from uuid import uuid4

import httpx
import uvicorn

from benchmarks.lib.harness import echo, table
from deployments.ingestion.allow_list import AllowList
from deployments.storage.artifacts import Artifacts
from serve_app.dialects.base import ApiContext
from serve_app.dialects.koldan.routes import PREFIX
from serve_app.dialects.koldan.translate import to_spec
from serve_app.dialects.koldan.wire_requests import KoldanLanguageOptions, KoldanTranscriptionOptions
from serve_app.http.auth import Auth
from serve_app.ingress import create_api
from serve_app.jobs.deliveries import Deliveries
from serve_app.jobs.event_stream import EventStreams
from serve_app.jobs.model_catalog import Model, ModelCatalog
from serve_app.jobs.quotas import Quotas, TenantLimits
from serve_app.jobs.service import Jobs
from serve_app.local.valkey import Valkey
from serve_app.models.file import File
from serve_app.models.job import JobError, Phase
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect
from serve_app.store.redis_store import Store
from serve_app.store.webhook_outbox import Outbox

MAX_RATIO, FEW, PAGE_SIZE, WARM_UP = 2.0, 100, 20, 10
QUERIES = {
    "by creation": {"sort": "creationDate,desc"},
    "by end": {"sort": "completionDate,desc"},
    "by state": {"sort": "status,asc"},
    "completed or failed": {"status": "COMPLETED,FAILED"},
}


async def fill(store: Store, owner: str, count: int) -> None:
    """Create jobs of one owner; 8 of 10 have ended, one of them failed."""
    options = KoldanTranscriptionOptions.model_validate({"model": "m", "language": KoldanLanguageOptions()})

    async def submit(number: int) -> None:
        file = File(str(uuid4()), owner, "t", f"talk {number}", size=1)
        spec = replace(to_spec(options, None, None, file=file.id), dialect="koldan", requested_model="m")
        await store.jobs.submit(str(uuid4()), owner, "t", spec, ttl_s=86_400, file=file)

    for start in range(0, count, 64):
        await asyncio.gather(*(submit(number) for number in range(start, min(start + 64, count))))
    for number in range(count):
        claim = await store.leases.claim("bench")
        assert claim
        if number >= count * 8 // 10:
            continue
        failure = JobError("internal", "No.") if number % 8 == 0 else None
        await store.leases.finish(claim, Phase.FAILED if failure else Phase.COMPLETED, failure)


@asynccontextmanager
async def serve(store: Store, url: str, root: Path) -> AsyncIterator[str]:
    """Serve the API over a socket; yields its URL."""
    artifacts, redis = Artifacts((root / "artifacts").as_uri()), connect(url)
    limits, events = Quotas(store, TenantLimits()), EventStreams(store, artifacts)
    catalog = ModelCatalog([Model("m", ("en",))])
    jobs = Jobs(store, events, artifacts, catalog, quotas=limits, allowed=AllowList(), result_ttl_s=86_400)
    context = ApiContext(jobs, Deliveries(Outbox(redis)), artifacts, 1, 30.0)
    api = create_api(context, Auth(ApiKeys(redis), limits, required=True), store, events, version="0")
    server = uvicorn.Server(uvicorn.Config(api, port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving
    await redis.aclose()


async def measure(many: int, rounds: int) -> float:
    with TemporaryDirectory(prefix="murmur-bench-", dir="/tmp") as folder:
        root = Path(folder)
        valkey = Valkey(root / "data", root)
        valkey.start()
        redis = connect(valkey.url)
        store = Store(redis)
        try:
            keys = {}
            for owner, count in (("few", FEW), ("many", many)):
                began = time.perf_counter()
                await fill(store, owner, count)
                echo(f"{count} jobs created in {time.perf_counter() - began:.0f} s")
                keys[owner] = await ApiKeys(redis).create(owner, "t", ["speech:transcriptions:read"])
            async with serve(store, valkey.url, root) as url, httpx.AsyncClient(base_url=url, timeout=60) as http:
                return await compare(http, keys, {"few": FEW, "many": many}, rounds)
        finally:
            await store.close()
            valkey.stop()


async def compare(http: httpx.AsyncClient, keys: dict[str, str], counts: dict[str, int], rounds: int) -> float:
    """Print the table; the greatest ratio."""
    rows, worst = [], 0.0
    for name, query in QUERIES.items():
        share = 8 if "status" in query else 10  # tenths of the jobs that the query matches
        for position in ("first", "last"):
            times: dict[str, list[float]] = {owner: [] for owner in keys}
            for turn in range(rounds + WARM_UP):
                for owner, key in keys.items():
                    page = 0 if position == "first" else counts[owner] * share // 10 // PAGE_SIZE - 1
                    params = {**query, "size": str(PAGE_SIZE), "page": str(page)}
                    began = time.perf_counter()
                    response = await http.get(PREFIX, params=params, headers={"X-API-Key": key})
                    if turn >= WARM_UP:
                        times[owner].append((time.perf_counter() - began) * 1000)
                    body = response.raise_for_status().json()
                    if body["size"] != PAGE_SIZE or body["total"] != counts[owner] * share // 10:
                        raise RuntimeError(f"{name}, {position} page of {owner}: {body['size']} of {body['total']}")
            medians = {owner: median(values) for owner, values in times.items()}
            ratio = medians["many"] / medians["few"]
            worst = max(worst, ratio)
            p99 = quantiles(times["many"], n=100)[98]
            rows.append((name, position, *(f"{medians[owner]:.2f} ms" for owner in keys), f"{p99:.2f} ms", f"{ratio:.2f}"))
    head = ("list", "page", f"{counts['few']} jobs, p50", f"{counts['many']} jobs, p50", "p99", "ratio of p50")
    table(f"Pages of {PAGE_SIZE} ({rounds} requests each, in turn)", head, rows)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    worst = asyncio.run(measure(arguments.jobs, arguments.rounds))
    echo(f"\nthe greatest ratio is {worst:.2f}; goal: at most {MAX_RATIO:g}")
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
