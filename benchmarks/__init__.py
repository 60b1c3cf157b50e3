"""Measurements that anyone can run, side by side in one run."""

import os

# Before numpy is imported: OpenBLAS' threads would take the cores from the engine's, and a process that forks ffmpeg while
# they work hangs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
