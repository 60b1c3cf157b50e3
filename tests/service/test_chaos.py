"""Small chaos run: processes are killed while jobs run, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.chaos import chaos
from benchmarks.lib.process_killer import KINDS


def test_jobs_survive_the_death_of_any_process(sample: Path) -> None:
    # In a process of its own: only what is below it is killed, and the tests' other services are below this one.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counts = pool.submit(chaos, sample, jobs=12, kills=len(KINDS), seed=1, deadline_s=120.0).result()
    assert counts.faults == []
    assert counts.passed, counts.rows()
    assert set(counts.kills) == set(KINDS)
    assert counts.segments > counts.jobs
