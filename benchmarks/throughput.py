"""Throughput and word error rate of engine and service beside faster-whisper. Exit status 1 if a goal is missed.

python -m benchmarks.throughput [--only short|long|mixed] [--rounds N] [--compute-type int8]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.lib.corpus import Recording, error_rate, joined, long_files, short_clips
from benchmarks.lib.faster_whisper_baseline import Measurement, measure_in_process
from benchmarks.lib.harness import echo, service, table
from deployments.transcription.engines.faster_whisper import choose_compute_type, choose_device
from serve_app.cli.client import Client

BATCHED = ("batched-8", "batched-16")
Results = Mapping[str, Sequence[Measurement]]  # by method, one for each round


@dataclass(frozen=True, slots=True)
class Load:
    """Recordings to transcribe, and the baselines to compare with."""

    name: str
    recordings: Sequence[Recording]
    baselines: Sequence[str]
    at_once: bool = True
    language: str | None = None
    compute_type: str = "auto"

    @property
    def paths(self) -> list[Path]:
        return [recording.path for recording in self.recordings]

    def throughput(self, measurement: Measurement) -> float:
        """Seconds of audio per second."""
        return sum(recording.duration_s for recording in self.recordings) / measurement.took_s

    def wer(self, measurement: Measurement) -> float:
        """Word error rate in per cent."""
        return 100 * error_rate(self.recordings, measurement.texts)

    def measure(self, method: str) -> Measurement:
        """Measure a method in a new process."""
        options = ["--language", self.language] if self.language else []
        if method == "ours":
            options += ["--compute-type", self.compute_type, *(["--at-once"] if self.at_once else [])]
        if method != "ours" and not self.at_once:
            options.append("--vad")
        return measure_in_process(method, self.paths, *options)


def measure_service(client: Client, load: Load) -> Measurement:
    """Submit all recordings and follow each job."""

    def transcribe(path: Path) -> list[str]:
        job = client.submit_file(path, {"language": load.language} if load.language else {}, lambda _: None)
        events = list(client.events(job["id"]))
        if events[-1][1]["phase"] != "completed":
            raise RuntimeError(f"{path.name}: {events[-1]}")
        return [data["text"] for kind, data in events if kind == "segment"]

    with ThreadPoolExecutor(len(load.paths) if load.at_once else 1) as threads:
        began = time.perf_counter()
        results = list(threads.map(transcribe, load.paths))
        took_s = time.perf_counter() - began
    return Measurement(took_s, [" ".join(texts) for texts in results], [len(texts) for texts in results])


def measure(load: Load, rounds: int) -> Results:
    results: dict[str, list[Measurement]] = {method: [] for method in (*load.baselines, "ours", "service")}
    for number in range(1, rounds + 1):
        for method, measurements in results.items():
            if method == "service":
                with service(compute_type=load.compute_type) as client:
                    measure_service(client, Load("warm-up", load.recordings[:1], ()))
                    measurement = measure_service(client, load)
            else:
                measurement = load.measure(method)
            measurements.append(measurement)
            figures = f"{load.throughput(measurement):.1f} audio s/s, WER {load.wer(measurement):.2f} %"
            echo(f"{load.name}, round {number}, {NAMES[method]}: {figures}")
    return results


def report(load: Load, results: Results) -> None:
    figures = {method: Figures.of(load, measurements) for method, measurements in results.items()}
    first = figures[load.baselines[0]].throughput
    rows = [
        (NAMES[method], f"{f.throughput:.1f}", f"{f.throughput / first:.2f}", f"{f.wer:.2f} %", f"{f.segments:.0f}")
        for method, f in figures.items()
    ]
    total_s = sum(recording.duration_s for recording in load.recordings)
    compute_type = choose_compute_type(load.compute_type, choose_device("auto"))
    types = f"base; faster-whisper int8, Murmuration {compute_type}"
    title = f"{load.name}: {len(load.recordings)} recordings, {total_s:.0f} s ({types})"
    table(title, ("", "throughput, audio s/s", "ratio", "WER", "segments"), rows)


NAMES = {
    "greedy": "faster-whisper, greedy",
    "beam": "faster-whisper, beam 5",
    **{method: f"faster-whisper, batches of {method.rpartition('-')[2]}" for method in BATCHED},
    "ours": "Murmuration, engine only",
    "service": "Murmuration, whole service",
}


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the rounds."""

    throughput: float
    wer: float
    segments: float

    @classmethod
    def of(cls, load: Load, measurements: Sequence[Measurement]) -> Figures:
        return cls(
            median(map(load.throughput, measurements)),
            median(map(load.wer, measurements)),
            median(sum(measurement.segments) for measurement in measurements),
        )


@dataclass(frozen=True, slots=True)
class Goal:
    """Figure with its lower bound."""

    name: str
    figure: float
    minimum: float

    @property
    def missed(self) -> bool:
        return self.figure < self.minimum

    def __str__(self) -> str:
        return f"{'MISSED' if self.missed else 'met   '} {self.name}: {self.figure:.2f}, goal: at least {self.minimum:g}"


def goals(load: Load, results: Results) -> Iterator[Goal]:
    figures = {method: Figures.of(load, measurements) for method, measurements in results.items()}
    engine, whole = figures["ours"], figures["service"]
    if load.at_once and (greedy := figures.get("greedy")):
        yield Goal("engine / greedy", engine.throughput / greedy.throughput, 4.0)
        yield Goal("service / greedy", whole.throughput / greedy.throughput, 3.0)
        yield Goal("WER of greedy minus engine's, points", greedy.wer - engine.wer, -0.2)
    if beam := figures.get("beam"):
        yield Goal("engine / best batched", engine.throughput / max(figures[m].throughput for m in BATCHED), 1.2)
        yield Goal("WER of beam minus engine's, points", beam.wer - engine.wer, -0.8)
        yield Goal("segments, engine / beam", engine.segments / beam.segments, 1.0)
        yield Goal("service / engine", whole.throughput / engine.throughput, 0.9)


@contextmanager
def loads(only: str | None, compute_type: str = "auto") -> Iterator[list[Load]]:
    with TemporaryDirectory(prefix="murmur-bench-") as folder:
        short = short_clips()
        long = [*long_files(Path(folder)), joined(short, Path(folder) / "joined.flac")]
        by_name = {
            # With detection, faster-whisper would encode each clip twice.
            "short": Load("Short clips, all at once", short, ("greedy", "batched-8"), language="en"),
            "long": Load("Long files, one by one", long, ("beam", *BATCHED), at_once=False),
            "mixed": Load("Short clips beside long files", [*long, *short], ("batched-8",)),
        }
        yield [replace(load, compute_type=compute_type) for name, load in by_name.items() if only in (None, name)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("short", "long", "mixed"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compute-type", default="auto", help="of our engine; faster-whisper uses int8")
    arguments = parser.parse_args()
    missed = 0
    with loads(arguments.only, arguments.compute_type) as selected:
        for load in selected:
            results = measure(load, arguments.rounds)
            report(load, results)
            for goal in goals(load, results):
                echo(f"\n{goal}")
                missed += goal.missed
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
