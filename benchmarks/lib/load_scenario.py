"""Many jobs of several customers at once, each followed to its end and compared with what it must be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.lib.results import Tally
from benchmarks.lib.resuming_reader import Witness
from benchmarks.lib.tenant_client import Customer, Refused

OPTIONS = {"segment_duration": "10"}
"""Several windows even of a short recording."""
AT_ONCE = 48
"""Jobs that are sent or followed at once; of few jobs a quarter, so that some are sent late."""
COUNT_S = 60.0
"""How long it may take to list the jobs afterwards: replicas may still be on their way back."""


def untimed(transcript: dict[str, Any]) -> dict[str, Any]:
    """A transcript without what its decodes took, which is another each time."""
    kept = [{name: value for name, value in each.items() if name != "decode_s"} for each in transcript["segments"]]
    return {**transcript, "segments": kept}


class Storm:
    """`jobs` jobs, each of one of `recordings`, sent by `customers` in turns. The tally says what became of them."""

    def __init__(self, customers: Sequence[Customer], recordings: Sequence[Path], jobs: int) -> None:
        self._customers = customers
        self._recordings = recordings
        self._expected: dict[Path, Any] = {}
        self._known: dict[Customer, set[str]] = {customer: set() for customer in customers}
        self._open: set[str] = set()
        self._numbers = iter(range(jobs))
        self._ended = 0
        self.tally = Tally(jobs)

    def progress(self) -> float:
        """The share of the jobs that have ended, 0 to 1."""
        return self._ended / self.tally.jobs

    async def calm(self) -> None:
        """Learn what the transcript of each recording is, undisturbed."""
        await asyncio.gather(*(self._learn(self._customers[0], recording) for recording in self._recordings))

    async def rage(self) -> None:
        """Send and follow all jobs to their ends."""
        began = time.monotonic()
        at_once = min(AT_ONCE, max(len(self._customers), self.tally.jobs // 4))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(at_once):
                    group.create_task(self._order(self._customers[number % len(self._customers)]))
        finally:
            self.tally.duration_s = time.monotonic() - began

    async def count(self) -> None:
        """Compare the jobs that are there with those that were accepted."""
        try:
            async with asyncio.timeout(COUNT_S):
                for customer in self._customers:
                    self._compare(customer, await customer.jobs())
        except TimeoutError:
            self.tally.wrong.append(f"the jobs could not be listed in {COUNT_S:.0f} s")
        self.tally.repeats = sum(customer.repeats for customer in self._customers)
        self.tally.twice = sum(customer.twice for customer in self._customers)

    def _compare(self, customer: Customer, listed: list[str]) -> None:
        if len(listed) != len(set(listed)):
            self.tally.wrong.append("a job is listed twice")
        known = self._known[customer]
        self.tally.lost += len((known - set(listed)) | (known & self._open))
        self.tally.unasked += len(set(listed) - known)

    async def _learn(self, customer: Customer, recording: Path) -> None:
        job_id = await customer.submit(recording, f"calm-{recording.stem}", OPTIONS)
        self._known[customer].add(job_id)
        await Witness(customer.http, job_id).follow()
        self._expected[recording] = untimed(await customer.transcript(job_id))

    async def _order(self, customer: Customer) -> None:
        """Send one job after another, and follow each to its end."""
        for number in self._numbers:
            recording = self._recordings[number % len(self._recordings)]
            try:
                job_id = await customer.submit(recording, f"storm-{number}", OPTIONS)
                if job_id in self._known[customer]:
                    self.tally.wrong.append(f"{job_id} was given for two jobs")
                self._known[customer].add(job_id)
                self._open.add(job_id)
                self.tally.accepted += 1
                await self._follow(customer, job_id, recording)
                self._open.discard(job_id)
            except Refused as refusal:
                self.tally.wrong.append(str(refusal))
            self._ended += 1

    async def _follow(self, customer: Customer, job_id: str, recording: Path) -> None:
        witness, tally = Witness(customer.http, job_id), self.tally
        await witness.follow()
        tally.segments += len(witness.segments)
        tally.doubled += witness.doubled
        tally.disordered += witness.disordered
        tally.reconnects += witness.reconnects
        tally.wrong += [f"{job_id}: {what}" for what in witness.wrong]
        if witness.ended != "completed":
            tally.failed += 1
            tally.wrong.append(f"{job_id}: {witness.ended}, {witness.error}")
            return
        tally.completed += 1
        expected = self._expected[recording]
        kept = untimed(await customer.transcript(job_id))
        told = untimed({"segments": witness.segments})
        tally.differing += kept != expected or told["segments"] != expected["segments"]
