"""Load scenario: concurrent jobs of several tenants, followed to the end and compared with the expected transcripts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from benchmarks.lib.results import OutcomeCounts
from benchmarks.lib.resuming_reader import ResumingReader
from benchmarks.lib.tenant_client import Refused, TenantClient

OPTIONS = {"segment_duration": "10"}  # several windows even of a short recording
CONCURRENCY = 48  # jobs in flight; at most a quarter of all, so that some are sent late
LIST_TIMEOUT_S = 60.0  # replicas may still be restarting when the jobs are listed


def without_timings(transcript: dict[str, Any]) -> dict[str, Any]:
    """Drop `decode_s`, which differs from run to run."""
    segments = [{key: value for key, value in s.items() if key != "decode_s"} for s in transcript["segments"]]
    return {**transcript, "segments": segments}


class LoadScenario:
    """Sends `jobs` jobs by `clients` in turn; `counts` holds the outcome."""

    def __init__(
        self,
        clients: Sequence[TenantClient],
        recordings: Sequence[Path],
        jobs: int,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._options = {**OPTIONS, **options}
        self._clients = clients
        self._recordings = recordings
        self._expected: dict[Path, Any] = {}
        self._accepted: dict[TenantClient, set[str]] = {client: set() for client in clients}
        self._open: set[str] = set()
        self._numbers = iter(range(jobs))
        self._ended = 0
        self.counts = OutcomeCounts(jobs)

    def progress(self) -> float:
        """Share of the jobs that have ended, 0 to 1."""
        return self._ended / self.counts.jobs

    async def learn_expected(self) -> None:
        """Transcribe each recording once, undisturbed."""
        await asyncio.gather(*(self._learn(self._clients[0], recording) for recording in self._recordings))

    async def run(self) -> None:
        """Send all jobs and follow each."""
        began = time.monotonic()
        concurrency = min(CONCURRENCY, max(len(self._clients), self.counts.jobs // 4))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(concurrency):
                    group.create_task(self._work(self._clients[number % len(self._clients)]))
        finally:
            self.counts.duration_s = time.monotonic() - began

    async def compare_lists(self) -> None:
        """Compare each tenant's list of jobs with its accepted jobs."""
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                for client in self._clients:
                    self._compare(client, await client.jobs())
        except TimeoutError:
            self.counts.faults.append(f"the jobs could not be listed in {LIST_TIMEOUT_S:.0f} s")
        self.counts.retries = sum(client.retries for client in self._clients)
        self.counts.sent_twice = sum(client.sent_twice for client in self._clients)

    def _compare(self, client: TenantClient, listed: list[str]) -> None:
        if len(listed) != len(set(listed)):
            self.counts.faults.append("a job is listed twice")
        accepted = self._accepted[client]
        self.counts.lost += len((accepted - set(listed)) | (accepted & self._open))
        self.counts.unexpected += len(set(listed) - accepted)

    async def _learn(self, client: TenantClient, recording: Path) -> None:
        job_id = await client.submit(recording, f"undisturbed-{recording.stem}", self._options)
        self._accepted[client].add(job_id)
        await ResumingReader(client.http, job_id).follow()
        self._expected[recording] = without_timings(await client.transcript(job_id))

    async def _work(self, client: TenantClient) -> None:
        for number in self._numbers:
            recording = self._recordings[number % len(self._recordings)]
            try:
                job_id = await client.submit(recording, f"job-{number}", self._options)
                if job_id in self._accepted[client]:
                    self.counts.faults.append(f"{job_id} is the id of two jobs")
                self._accepted[client].add(job_id)
                self._open.add(job_id)
                self.counts.accepted += 1
                await self._follow(client, job_id, recording)
                self._open.discard(job_id)
            except Refused as refusal:
                self.counts.faults.append(str(refusal))
            self._ended += 1

    async def _follow(self, client: TenantClient, job_id: str, recording: Path) -> None:
        reader, counts = ResumingReader(client.http, job_id), self.counts
        await reader.follow()
        counts.segments += len(reader.segments)
        counts.duplicated += reader.duplicated
        counts.out_of_order += reader.out_of_order
        counts.reconnects += reader.reconnects
        counts.faults += [f"{job_id}: {fault}" for fault in reader.faults]
        if reader.phase != "completed":
            counts.failed += 1
            counts.faults.append(f"{job_id}: {reader.phase}, {reader.error}")
            return
        counts.completed += 1
        expected = self._expected[recording]
        stored = without_timings(await client.transcript(job_id))
        streamed = without_timings({"segments": reader.segments})
        counts.differing += stored != expected or streamed["segments"] != expected["segments"]
