"""What memory is there for a batch, and how a process keeps what its model's layers use again and again.

An encoder's attention over 30 s takes tens of megabytes a layer. glibc's malloc maps so much anew each time and unmaps it
after, and the kernel hands out every page again: on a virtual machine that was a third of the encoder's time.
"""

from __future__ import annotations

import ctypes
import sys

CPU_BATCH, GPU_BATCH, MOST = 8, 16, 64
"""Clips in a batch: on a CPU; on a GPU of which nothing is known; at all."""
RESERVE_BYTES, CLIP_BYTES, CLIP_SHARE = 1 << 30, 64 << 20, 0.2
"""What stays free on a GPU, and what a clip of 30 s takes there: so much and a share of the weights. An estimate from the
shapes of base to large-v3 (attention over 1500 positions, the decoder's caches at a beam of 5); where it is too high, a
batch that does not fit is halved."""
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
"""Parameters of glibc's mallopt(3)."""


def keep_memory() -> bool:
    """Tell malloc to grow one heap and to give nothing back. False where it is not glibc's."""
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    # A thread's own heap ends at 64 MB and would map what is larger: all threads share the one that does not.
    wanted = ((ARENA_MAX, 1), (MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1))
    return mallopt is not None and all(mallopt(parameter, value) for parameter, value in wanted)


def clips_that_fit(device: str, weights_bytes: int) -> int:
    """How many clips of 30 s a batch may hold, for a model that is loaded."""
    if device != "cuda":
        return CPU_BATCH
    import torch

    if not torch.cuda.is_available():
        return GPU_BATCH
    free_bytes, _ = torch.cuda.mem_get_info()
    return max(1, min(MOST, int((free_bytes - RESERVE_BYTES) / (CLIP_BYTES + CLIP_SHARE * weights_bytes))))
