"""Measurements of the whole service and of its engine, side by side in one run; README.md holds their tables."""

import os

# Before numpy is imported: OpenBLAS' threads would take the cores from the engine's, and a process that forks ffmpeg while
# they work hangs.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
