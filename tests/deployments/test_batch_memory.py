"""Batch sizes by memory, and a malloc that keeps freed memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from deployments.transcription.engines.batch_memory import CPU_BATCH, GPU_BATCH, MAX_BATCH, clips_that_fit

GB = 1 << 30


def test_a_cpu_has_a_fixed_batch_size() -> None:
    assert clips_that_fit("cpu", 3 * GB) == CPU_BATCH


def test_a_gpu_unknown_to_torch_has_a_small_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert clips_that_fit("cuda", 3 * GB) == GPU_BATCH


@pytest.mark.parametrize(
    ("free", "weights", "clips"), [(76, 3, MAX_BATCH), (5, 3, 6), (7, 0.1, MAX_BATCH), (2, 3, 1), (0.5, 3, 1)]
)
def test_the_batch_size_of_a_gpu_depends_on_its_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: float, weights: float, clips: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free * GB), 80 * GB))
    assert clips_that_fit("cuda", int(weights * GB)) == clips


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_freed_memory_stays_with_the_process() -> None:
    script = """
import resource, threading
from deployments.transcription.engines.batch_memory import keep_memory
import numpy as np

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000)  # 80 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_memory()
counts = [faults() for _ in range(3)]
thread = threading.Thread(target=lambda: counts.append(faults()))
thread.start(), thread.join()
print(kept, *counts)
"""
    kept, first, *later = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert kept == "True"
    assert all(int(faults) < int(first) / 4 for faults in later[:2]), (first, later)
