"""A small storm: processes are killed while jobs run, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from benchmarks.chaos import chaos
from benchmarks.lib.process_killer import KINDS


def test_jobs_outlive_whatever_is_killed(sample: Path) -> None:
    # In a process of its own: only what is below it is killed, and the tests' other services are below this one.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        tally = pool.submit(chaos, sample, jobs=12, kills=len(KINDS), seed=1, deadline_s=120.0).result()
    assert tally.wrong == []
    assert tally.clean, tally.rows()
    assert set(tally.kills) == set(KINDS)
    assert tally.segments > tally.jobs
