"""Memory for batches: batch size and malloc."""

from __future__ import annotations

import ctypes
import re
import sys

from deployments.cores import usable_cores

# Most clips in a batch: on a CPU; on a GPU whose memory is unknown; on any GPU.
CPU_BATCH, GPU_BATCH, MAX_BATCH = 8, 16, 64
# GPU memory left free, and taken by a 30 s clip: a constant and a share of the weights. Estimated from the shapes of base
# to large-v3 (attention over 1500 positions, the decoder's caches at a beam of 5). Where it is too low, a batch that does
# not fit is halved, and none is as large again.
RESERVE_BYTES, CLIP_BYTES, CLIP_SHARE = 1 << 30, 64 << 20, 0.2
OUT_OF_MEMORY = re.compile(r"out of memory|ALLOC_FAILED|bad_alloc|bad alloc", re.IGNORECASE)
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8  # parameters of mallopt(3)


def keep_memory() -> bool:
    """Make malloc use one heap and return nothing to the kernel. False where it is not glibc's."""
    # An encoder's attention over 30 s takes tens of megabytes a layer. glibc maps and unmaps that much each time, and
    # the kernel faults in every page again: on a virtual machine a third of the encoder's time.
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # A thread's own arena ends at 64 MB and maps larger blocks: one arena for all threads.
    parameters = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in parameters)


def concurrent_batches(device: str, requested: int) -> int:
    # One batch fills a GPU; several would divide its memory.
    return requested or (1 if device == "cuda" else usable_cores())


def clips_that_fit(device: str, weights_bytes: int, workers: int = 1) -> int:
    """Most 30 s clips in each batch of `workers`, once the model is loaded."""
    if device != "cuda":
        return CPU_BATCH
    import torch

    if not torch.cuda.is_available():
        return GPU_BATCH
    free_bytes, _ = torch.cuda.mem_get_info()
    share_bytes = (free_bytes - RESERVE_BYTES) / workers
    return max(1, min(MAX_BATCH, int(share_bytes / (CLIP_BYTES + CLIP_SHARE * weights_bytes))))


def is_out_of_memory(error: BaseException) -> bool:
    # On any device. CTranslate2 and cuBLAS raise plain RuntimeErrors.
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error))))
