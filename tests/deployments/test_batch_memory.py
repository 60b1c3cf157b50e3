"""Batch sizes by memory, and a malloc that keeps freed memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from deployments.cores import usable_cores
from deployments.transcription.engines.batch_memory import (
    CPU_BATCH,
    GPU_BATCH,
    MAX_BATCH,
    clips_that_fit,
    concurrent_batches,
    is_out_of_memory,
)

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


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_batches_that_run_at_once_fit_together(monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (22 * GB, 24 * GB))
    need = workers * clips_that_fit("cuda", int(1.6 * GB), workers) * (0.2 * 1.6 + 1 / 16)
    assert need <= 21
    assert workers == 1 or need > 0.8 * 21


def test_a_gpu_decodes_one_batch_at_a_time_and_a_cpu_one_per_core() -> None:
    assert [concurrent_batches("cuda", 0), concurrent_batches("cuda", 3)] == [1, 3]
    assert [concurrent_batches("cpu", 0), concurrent_batches("cpu", 3)] == [usable_cores(), 3]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA failed with error out of memory"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"), True),
        (RuntimeError("cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA failed with error an illegal memory access was encountered"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_for_lack_of_memory_are_known(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


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
