"""Fairness between tenants: a clip beside day-long jobs and dripping downloads of another tenant, and a tenant of bulk jobs
beside one that submits everything as interactive. Exit status 1 if a goal is missed.

    python -m benchmarks.fairness [--audio FILE] [--jobs 64] [--hours 24] [--clips 5] [--seconds 60] [--engine fake-100]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from benchmarks.lib.dripping_server import dripping_server
from benchmarks.lib.harness import SAMPLE, echo, free_port, looped, service, table
from serve_app.local.valkey import url_file
from serve_app.store.api_keys import ApiKeys
from serve_app.store.connection import connect

CLIP_S, MINUTES = 10, 10
MAX_SLOWDOWN, MIN_SHARE = 3.0, 0.4
SCOPES = ("speech:transcriptions:read", "speech:transcriptions:write")
POLL_S = 0.05
SHARE_JOBS = 8  # of each tenant in the second part


@dataclass(frozen=True, slots=True)
class Outcome:
    """Seconds of a clip alone and beside others, and the bulk tenant's share of the model."""

    alone_s: float
    beside_s: tuple[float, ...]
    share: float

    @property
    def slowdown(self) -> float:
        return max(self.beside_s) / self.alone_s


class Tenant:
    """API client with a tenant's key."""

    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.AsyncClient(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=httpx.Timeout(120.0), trust_env=False
        )

    async def upload(self, recording: Path, **options: str) -> str:
        with recording.open("rb") as file:
            response = await self.http.post("/v1/jobs", files={"file": (recording.name, file)}, data=options)
        return str(response.raise_for_status().json()["id"])

    async def submit_url(self, url: str, **options: str) -> str:
        response = await self.http.post("/v1/jobs", json={"source": {"url": url}, **options})
        return str(response.raise_for_status().json()["id"])

    async def job(self, job_id: str) -> dict[str, Any]:
        job: dict[str, Any] = (await self.http.get(f"/v1/jobs/{job_id}")).raise_for_status().json()
        return job

    async def transcribe_s(self, clip: Path) -> float:
        """Seconds from the upload to the end."""
        began = time.perf_counter()
        job_id = await self.upload(clip)
        while (job := await self.job(job_id))["phase"] not in ("completed", "failed", "cancelled"):  # noqa: ASYNC110 # as clients poll
            await asyncio.sleep(POLL_S)
        if job["phase"] != "completed":
            raise RuntimeError(f"the clip ended as {job['phase']}: {job['error']}")
        return time.perf_counter() - began

    async def cancel(self, ids: list[str]) -> None:
        for job_id in ids:
            await self.http.post(f"/v1/jobs/{job_id}/cancel")


def measure(audio: Path, *, engine: str, jobs: int, hours: float, clips: int, seconds: float) -> Outcome:
    """Run both parts against a new service."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder, port = Path(name), free_port()
        long, clip = _long_recording(audio, hours, folder), looped(audio, CLIP_S, folder / "clip.mp3")
        slow_url = stack.enter_context(dripping_server())
        settings = {"engine": "fake", "models": engine, "fetch_allow": "127.0.0.0/8"}
        if not engine.startswith("fake"):
            settings |= {"engine": "faster_whisper"}
        data_dir = folder / "data"
        stack.enter_context(service(port=port, data_dir=data_dir, api_keys_required=True, **settings))
        keys = asyncio.run(_create_keys(url_file(data_dir).read_text()))
        return asyncio.run(_run(f"http://127.0.0.1:{port}", keys, long, clip, slow_url, jobs, clips, seconds))


async def _run(
    url: str, keys: list[str], long: Path, clip: Path, slow_url: str, jobs: int, clips: int, seconds: float
) -> Outcome:
    greedy, polite = (Tenant(url, key) for key in keys)
    await polite.transcribe_s(clip)  # warms up
    alone_s = median([await polite.transcribe_s(clip) for _ in range(clips)])
    echo(f"clip alone: {alone_s:.2f} s (median of {clips})")
    ids = [await greedy.submit_url(f"{slow_url}/{number}.mp3", priority="bulk") for number in range(jobs)]
    ids += [await greedy.upload(long, priority="bulk") for _ in range(jobs)]
    await _until_running(greedy, ids)
    beside_s = []
    for _ in range(clips):
        beside_s.append(await polite.transcribe_s(clip))
        echo(f"clip beside {jobs} long jobs and {jobs} slow downloads: {beside_s[-1]:.2f} s")
    await greedy.cancel(ids)
    share = await _share(greedy, polite, long, seconds)
    await asyncio.gather(greedy.http.aclose(), polite.http.aclose())
    return Outcome(alone_s, tuple(beside_s), share)


async def _share(greedy: Tenant, polite: Tenant, long: Path, seconds: float) -> float:
    """Share of the decoded audio that the tenant with bulk jobs gets beside interactive ones."""
    ids = {
        tenant: [await tenant.upload(long, priority=priority) for _ in range(SHARE_JOBS)]
        for tenant, priority in ((greedy, "interactive"), (polite, "bulk"))
    }
    for tenant in ids:
        await _until_running(tenant, ids[tenant])
    before = {tenant: await _done_s(tenant, ids[tenant]) for tenant in ids}
    await asyncio.sleep(seconds)
    done = {tenant: await _done_s(tenant, ids[tenant]) - before[tenant] for tenant in ids}
    for tenant in ids:
        await tenant.cancel(ids[tenant])
    return done[polite] / sum(done.values())


async def _until_running(tenant: Tenant, ids: list[str]) -> None:
    while not any([(await tenant.job(job_id))["phase"] == "transcribing" for job_id in ids]):  # noqa: ASYNC110 # likewise
        await asyncio.sleep(POLL_S)


async def _done_s(tenant: Tenant, ids: list[str]) -> float:
    return sum([float((await tenant.job(job_id))["progress"]["audio_done_s"]) for job_id in ids])


def _long_recording(audio: Path, hours: float, folder: Path) -> Path:
    """Repeat an MP3, whose frames can be put one after another, to a length."""
    part = looped(audio, 60 * MINUTES, folder / "part.mp3", bitrate="16k")
    frames, long = part.read_bytes(), folder / "long.mp3"
    with long.open("wb") as file:
        for _ in range(max(1, round(60 * hours / MINUTES))):
            file.write(frames)
    return long


async def _create_keys(redis_url: str) -> list[str]:
    async with connect(redis_url) as redis:
        return [await ApiKeys(redis).create("fairness", tenant, SCOPES) for tenant in ("greedy", "polite")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--jobs", type=int, default=64, help="long jobs, and as many slow downloads")
    parser.add_argument("--hours", type=float, default=24.0, help="length of the long recordings")
    parser.add_argument("--clips", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of the second part")
    parser.add_argument("--engine", default="fake-100", help="fake-SPEED, or a model of faster-whisper")
    arguments = parser.parse_args()
    outcome = measure(
        arguments.audio,
        engine=arguments.engine,
        jobs=arguments.jobs,
        hours=arguments.hours,
        clips=arguments.clips,
        seconds=arguments.seconds,
    )
    table(
        f"Fairness ({arguments.engine})",
        ("", "measured", "goal"),
        [
            ("clip of 10 s alone, median", f"{outcome.alone_s:.2f} s", ""),
            ("clip beside long jobs and slow downloads, median", f"{median(outcome.beside_s):.2f} s", ""),
            ("the same, maximum", f"{max(outcome.beside_s):.2f} s", ""),
            ("maximum over alone", f"{outcome.slowdown:.2f}", f"at most {MAX_SLOWDOWN:g}"),
            ("share of bulk beside interactive", f"{outcome.share:.0%}", f"at least {MIN_SHARE:.0%}"),
        ],
    )
    return int(outcome.slowdown > MAX_SLOWDOWN or outcome.share < MIN_SHARE)


if __name__ == "__main__":
    sys.exit(main())
