"""Small chaos run: processes are killed while jobs run, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.chaos import chaos
from benchmarks.lib.process_killer import KINDS


def test_jobs_survive_killed_processes(sample: Path) -> None:
    # Only descendants are killed: a separate process protects the services of other tests.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counts = pool.submit(chaos, sample, jobs=12, kills=len(KINDS), seed=1, deadline_s=120.0).result()
    assert counts.faults == []
    assert counts.passed, counts.rows()
    assert set(counts.kills) == set(KINDS)
    assert counts.segments > counts.jobs
