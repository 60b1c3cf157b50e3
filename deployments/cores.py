"""Usable CPU cores."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    # By affinity and by the CPU quota of the container (cgroup v1 or v2), rounded down, at least one.
    if sys.platform != "linux":
        return os.cpu_count() or 1
    quotas = [quota for quota in (_quota_v2(root), _quota_v1(root)) if quota is not None]
    return max(1, int(min([len(os.sched_getaffinity(0)), *quotas])))


def _quota_v2(root: Path) -> float | None:
    # A container sees its own cgroup at the top; outside of one, each level above limits it too.
    limits = [_ratio(_read(folder / "cpu.max")) for folder in _folders(root, root / "sys/fs/cgroup", "")]
    return min((limit for limit in limits if limit is not None), default=None)


def _quota_v1(root: Path) -> float | None:
    limits = [
        _ratio(f"{_read(folder / 'cpu.cfs_quota_us')} {_read(folder / 'cpu.cfs_period_us')}")
        for folder in _folders(root, root / "sys/fs/cgroup/cpu", "cpu")
    ]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(root: Path, top: Path, controller: str) -> list[Path]:
    # Of this process' cgroup and of those above it.
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            own = top / path.strip("/")
            return [own, *(folder for folder in own.parents if folder.is_relative_to(top))]
    return [top]


def _ratio(text: str) -> float | None:
    """`quota period` → cores."""
    numbers = text.split()
    if len(numbers) != 2 or not numbers[0].isdigit() or not numbers[1].isdigit() or not int(numbers[1]):
        return None
    return int(numbers[0]) / int(numbers[1])


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
