"""Benchmarks; README.md describes them and holds results."""

import os

# Before numpy is imported: OpenBLAS' threads would compete with the engine's, and a process that forks ffmpeg while they
# run can hang.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
