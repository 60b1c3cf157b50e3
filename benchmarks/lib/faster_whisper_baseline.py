"""Baseline: faster-whisper by its public API; prints a `Measurement` as JSON.

python -m benchmarks.lib.faster_whisper_baseline FILE... --method greedy|beam|batched-8 [--vad] [--language en]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deployments.transcription.weights import locate

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "murmur"
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Measurement:
    """Seconds for a set of recordings; text and number of segments of each."""

    took_s: float
    texts: list[str]
    segments: list[int]


def print_json(measurement: Measurement) -> None:
    print(json.dumps(asdict(measurement)), flush=True)


# A new process: memory and threads of one method must not affect the next.
def measure_in_process(method: str, paths: Sequence[Path], *options: str) -> Measurement:
    """Measure `ours` or a method of faster-whisper in a new process."""
    module = ["benchmarks.lib.faster_whisper_baseline", "--method", method]
    if method == "ours":
        module = ["benchmarks.lib.bare_engine"]
    command = [sys.executable, "-m", *module, *map(str, paths), *options]
    process = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return Measurement(**json.loads(process.stdout.splitlines()[-1]))


def measure(paths: Sequence[Path], method: str, language: str | None, vad: bool) -> Measurement:
    """Transcribe one recording after another, after a warm-up."""
    transcribe = load_method(method, vad)
    transcribe(min(paths, key=lambda path: path.stat().st_size), language)
    began = time.perf_counter()
    results = [transcribe(path, language) for path in paths]
    took_s = time.perf_counter() - began
    return Measurement(took_s, [text for text, _ in results], [count for _, count in results])


def load_method(method: str, vad: bool) -> Callable[[Path, str | None], tuple[str, int]]:
    """Load `greedy`, `beam` (of 5) or `batched-N`; the function returns text and number of segments."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model: Any = WhisperModel(str(locate("base", str(CACHE))), device="cpu", compute_type="int8", cpu_threads=CORES)
    options: dict[str, Any] = {"beam_size": 5 if method == "beam" else 1}
    if method.startswith("batched"):  # it always filters by its own VAD
        model, options["batch_size"] = BatchedInferencePipeline(model), int(method.partition("-")[2])
    else:
        options["vad_filter"] = vad

    def transcribe(path: Path, language: str | None) -> tuple[str, int]:
        segments = [segment.text for segment in model.transcribe(str(path), language=language, **options)[0]]
        return "".join(segments), len(segments)

    return transcribe


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--method", default="greedy")
    parser.add_argument("--language")
    parser.add_argument("--vad", action="store_true")
    arguments = parser.parse_args()
    print_json(measure(arguments.paths, arguments.method, arguments.language, arguments.vad))
    return 0


if __name__ == "__main__":
    sys.exit(main())
