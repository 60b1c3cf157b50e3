"""How much audio a second, and how right? Ours against faster-whisper's own ways, side by side in one run.

    python -m benchmarks.throughput [--only short|long|mixed] [--rounds N] [--compute-type int8]

Short clips all at once, long files one by one, and both together; each through the whole service (uploads, Redis, Ray and
all), through the bare engine, and through faster-whisper. The language of the clips is given, because faster-whisper would
encode each of them twice to hear it; that of long files is not. Word error rates stand beside the speeds. Exit status 1
where a goal is missed.
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
from benchmarks.lib.faster_whisper_baseline import Heard, ask
from benchmarks.lib.harness import say, service, table
from deployments.transcription.engines.faster_whisper import choose_compute_type, choose_device
from serve_app.cli.client import Client

BATCHED = ("batched-8", "batched-16")
Results = Mapping[str, Sequence[Heard]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be heard, at once or one by one, and by whom besides us."""

    name: str
    recordings: Sequence[Recording]
    rivals: Sequence[str]
    at_once: bool = True
    language: str | None = None
    compute_type: str = "auto"

    @property
    def paths(self) -> list[Path]:
        """Of the recordings."""
        return [recording.path for recording in self.recordings]

    def speed(self, heard: Heard) -> float:
        """Seconds of audio a second."""
        return sum(recording.duration_s for recording in self.recordings) / heard.took_s

    def wrong(self, heard: Heard) -> float:
        """Per cent of the words."""
        return 100 * error_rate(self.recordings, heard.texts)

    def ask(self, how: str) -> Heard:
        """Have it heard in a process of its own."""
        options = ["--language", self.language] if self.language else []
        if how == "ours":
            options += ["--compute-type", self.compute_type, *(["--at-once"] if self.at_once else [])]
        if how != "ours" and not self.at_once:
            options.append("--vad")
        return ask(how, self.paths, *options)


def through_service(client: Client, load: Load) -> Heard:
    """Submit, at once or one by one, and follow each to its end."""

    def one(path: Path) -> list[str]:
        job = client.submit_file(path, {"language": load.language} if load.language else {}, lambda _: None)
        events = list(client.events(job["id"]))
        if events[-1][1]["phase"] != "completed":
            raise RuntimeError(f"{path.name}: {events[-1]}")
        return [data["text"] for kind, data in events if kind == "segment"]

    with ThreadPoolExecutor(len(load.paths) if load.at_once else 1) as threads:
        began = time.perf_counter()
        heard = list(threads.map(one, load.paths))
        took_s = time.perf_counter() - began
    return Heard(took_s, [" ".join(texts) for texts in heard], [len(texts) for texts in heard])


def measure(load: Load, rounds: int) -> Results:
    """Everybody in turns, as often as there are rounds."""
    results: dict[str, list[Heard]] = {how: [] for how in (*load.rivals, "ours", "service")}
    for number in range(rounds):
        for how, found in results.items():
            if how == "service":
                with service(compute_type=load.compute_type) as client:
                    through_service(client, Load("warm-up", load.recordings[:1], ()))
                    found.append(through_service(client, load))
            else:
                found.append(load.ask(how))
            say(f"{load.name}, round {number + 1}: {how} {load.speed(found[-1]):.1f} x, {load.wrong(found[-1]):.2f} % wrong")
    return results


def report(load: Load, results: Results) -> None:
    """The table of a load."""
    slowest = median(load.speed(heard) for heard in results[load.rivals[0]])
    rows = []
    for how, found in results.items():
        speed = median(map(load.speed, found))
        wrong = median(map(load.wrong, found))
        segments = median(sum(heard.segments) for heard in found)
        rows.append((NAMES[how], f"{speed:.1f}", f"{speed / slowest:.2f}", f"{wrong:.2f} %", f"{segments:.0f}"))
    total = sum(recording.duration_s for recording in load.recordings)
    kind = choose_compute_type(load.compute_type, choose_device("auto"))
    title = f"{load.name}: {len(load.recordings)} recordings, {total:.0f} s (base; theirs int8, ours {kind})"
    table(title, ("", "audio s / s", "ratio", "words wrong", "segments"), rows)


NAMES = {
    "greedy": "faster-whisper, greedy",
    "beam": "faster-whisper, beam 5",
    **{how: f"faster-whisper, {how.replace('-', ' of ')}" for how in BATCHED},
    "ours": "ours, engine only",
    "service": "ours, whole service",
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure and its bound."""

    what: str
    figure: float
    least: float

    def told(self) -> str:
        """One line."""
        return (
            f"{'met   ' if self.figure >= self.least else 'MISSED'} {self.what}: {self.figure:.2f}, at least {self.least:g}"
        )


def goals(load: Load, results: Results) -> Iterator[Goal]:
    """What a load is to show."""
    speed = {how: median(map(load.speed, found)) for how, found in results.items()}
    wrong = {how: median(map(load.wrong, found)) for how, found in results.items()}
    segments = {how: median(sum(heard.segments) for heard in found) for how, found in results.items()}
    if "greedy" in speed and load.at_once:
        yield Goal("engine over greedy", speed["ours"] / speed["greedy"], 4.0)
        yield Goal("service over greedy", speed["service"] / speed["greedy"], 3.0)
        yield Goal("points of words wrong, greedy less ours", wrong["greedy"] - wrong["ours"], -0.2)
    if "beam" in speed:
        yield Goal("engine over the best batched", speed["ours"] / max(speed[how] for how in BATCHED), 1.2)
        yield Goal("points of words wrong, beam less ours", wrong["beam"] - wrong["ours"], -0.8)
        yield Goal("segments, ours over beam's", segments["ours"] / segments["beam"], 1.0)
        yield Goal("service over engine", speed["service"] / speed["ours"], 0.9)


@contextmanager
def loads(only: str | None, compute_type: str = "auto") -> Iterator[list[Load]]:
    """The loads asked for, while their recordings lie there."""
    with TemporaryDirectory(prefix="murmur-bench-") as folder:
        short = short_clips()
        long = [*long_files(Path(folder)), joined(short, Path(folder) / "joined.flac")]
        found = {
            "short": Load("Short clips, all at once", short, ("greedy", "batched-8"), language="en"),
            "long": Load("Long files, one by one", long, ("beam", *BATCHED), at_once=False),
            "mixed": Load("Short clips beside long files", [*long, *short], ("batched-8",)),
        }
        yield [replace(load, compute_type=compute_type) for name, load in found.items() if only in (None, name)]


def main() -> int:
    """Measure all; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("short", "long", "mixed"))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--compute-type", default="auto", help="ours; theirs is int8")
    arguments = parser.parse_args()
    missed = 0
    with loads(arguments.only, arguments.compute_type) as found:
        for load in found:
            results = measure(load, arguments.rounds)
            report(load, results)
            for goal in goals(load, results):
                say(f"\n{goal.told()}")
                missed += goal.figure < goal.least
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
