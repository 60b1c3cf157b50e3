"""faster-whisper by itself, as one calls it: what the product is measured against.

    python -m benchmarks.lib.faster_whisper_baseline FILE... --how greedy|beam|batched-8 [--vad] [--language en]

prints one line of JSON: seconds taken, texts, segments. Every way of hearing runs in a process of its own, because what one
does to its memory and threads must not help or hurt the next; loading and a first file are not counted.
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
class Heard:
    """How long it took to hear recordings, their texts, and into how many segments each fell."""

    took_s: float
    texts: list[str]
    segments: list[int]


def tell(heard: Heard) -> None:
    """To the process that asked."""
    print(json.dumps(asdict(heard)), flush=True)


def ask(how: str, paths: Sequence[Path], *options: str) -> Heard:
    """Hear recordings in a new process: `ours` is our engine, all else a way of faster-whisper's."""
    module = ["benchmarks.lib.bare_engine"] if how == "ours" else ["benchmarks.lib.faster_whisper_baseline", "--how", how]
    command = [sys.executable, "-m", *module, *map(str, paths), *options]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    return Heard(**json.loads(done.stdout.splitlines()[-1]))


def hear(paths: Sequence[Path], how: str, language: str | None, vad: bool) -> Heard:
    """One recording after another, which is how it is used."""
    transcribe = way(how, vad)
    transcribe(min(paths, key=lambda path: path.stat().st_size), language)
    began = time.perf_counter()
    heard = [transcribe(path, language) for path in paths]
    return Heard(time.perf_counter() - began, [text for text, _ in heard], [count for _, count in heard])


def way(how: str, vad: bool) -> Callable[[Path, str | None], tuple[str, int]]:
    """`greedy` and `beam` (its default, 5) go window after window; `batched-N` is its batched pipeline, greedy, which has a
    filter for silence of its own."""
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model: Any = WhisperModel(str(locate("base", str(CACHE))), device="cpu", compute_type="int8", cpu_threads=CORES)
    options: dict[str, Any] = {"beam_size": 5 if how == "beam" else 1}
    if how.startswith("batched"):
        model, options["batch_size"] = BatchedInferencePipeline(model), int(how.partition("-")[2])
    else:
        options["vad_filter"] = vad

    def transcribe(path: Path, language: str | None) -> tuple[str, int]:
        segments = [segment.text for segment in model.transcribe(str(path), language=language, **options)[0]]
        return "".join(segments), len(segments)

    return transcribe


def main() -> int:
    """Hear and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--how", default="greedy")
    parser.add_argument("--language")
    parser.add_argument("--vad", action="store_true")
    arguments = parser.parse_args()
    tell(hear(arguments.paths, arguments.how, arguments.language, arguments.vad))
    return 0


if __name__ == "__main__":
    sys.exit(main())
