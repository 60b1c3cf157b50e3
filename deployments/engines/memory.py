"""Memory that a model's layers use again and again stays with the process.

An encoder's attention over 30 s takes tens of megabytes a layer. glibc's malloc maps so much anew each time and unmaps it
after, and the kernel hands out every page again: on a virtual machine that was a third of the encoder's time.
"""

from __future__ import annotations

import ctypes
import sys

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
