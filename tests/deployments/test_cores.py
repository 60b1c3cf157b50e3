"""Cores by affinity and by the quota of a container."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from deployments.cores import usable_cores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cgroups are Linux's")


@pytest.fixture(autouse=True)
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        pytest.param({}, 64, id="no cgroups"),
        pytest.param({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 64, id="no limit"),
        pytest.param({"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2, id="a pod"),
        pytest.param({"sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2, id="rounded down"),
        pytest.param({"sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1, id="at least one"),
        pytest.param(
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 1",
            },
            3,
            id="a level above",
        ),
        pytest.param({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "400 100"}, 4, id="another namespace"),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/docker/1\n1:name=systemd:/docker/1\n",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": "600000",
                "sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us": "100000",
            },
            6,
            id="version 1",
        ),
        pytest.param(
            {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"},
            64,
            id="version 1 without a limit",
        ),
        pytest.param({"sys/fs/cgroup/cpu.max": "nonsense"}, 64, id="unreadable"),
    ],
)
def test_the_quota_of_a_container_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    write(tmp_path, files)
    assert usable_cores(tmp_path) == cores


def test_the_affinity_limits_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "800000 100000"})
    assert usable_cores(tmp_path) == 2
