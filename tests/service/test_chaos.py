"""Small chaos runs: processes are killed, and Redis and storage fail, while jobs run, and nothing is lost."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.chaos import chaos, storm
from benchmarks.lib.process_killer import KINDS


def test_jobs_survive_killed_processes(sample: Path) -> None:
    # Only descendants are killed: a separate process protects the services of other tests.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counts = pool.submit(chaos, sample, jobs=12, kills=len(KINDS), seed=1, deadline_s=120.0).result()
    assert counts.faults == []
    assert counts.passed, counts.rows()
    assert set(counts.kills) == set(KINDS)
    assert counts.segments > counts.jobs


@pytest.mark.parametrize("on_disk", [False, True])
def test_jobs_wait_out_a_storm_of_infrastructure(sample: Path, on_disk: bool) -> None:
    run = partial(storm, sample, on_disk=on_disk, jobs=10, seconds=2.0, seed=1, deadline_s=240.0, hang=False)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        counts = pool.submit(run).result()
    if counts is None:
        pytest.skip("a tmpfs cannot be mounted here")
    assert counts.faults == []
    assert counts.passed, counts.rows()
    assert len(counts.troubles) == (1 if on_disk else 10)
