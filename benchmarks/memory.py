"""Does memory stay the same however long the recording is?

    python -m benchmarks.memory [--audio FILE]

Peak resident memory of every process of the service, for ten minutes and for hours of the same: speech, looped, with the
fake engine (the model's own memory does not depend on it), and digital silence. Each case has a fresh service. Exit status
1 if a process takes over 1.2 times as much for the long one.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.lib.harness import SAMPLE, looped, say, service, silence, table

SHORT_S = 600
SPEECH_S, SILENCE_S = 2 * 3600, 4 * 3600
MOST = 1.2
EVERY_S = 0.2
MB = 1e6


class Peaks:
    """Watches all descendants of this process; `bytes` holds the peak of each kind of them."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._over = threading.Event()

    def watch(self) -> None:
        """Look until `end`."""
        known: dict[int, tuple[psutil.Process, str]] = {}
        looks = 0
        while not self._over.wait(EVERY_S):
            looks += 1
            # A whole look costs; ffmpeg comes and goes, the others stay.
            if looks % 10 == 1:
                known = {p.pid: (p, kind(p)) for p in psutil.Process().children(recursive=True)}
            for process, name in known.values():
                self.bytes[name] = max(self.bytes.get(name, 0), peak(process))

    def end(self) -> None:
        """Look no more."""
        self._over.set()


def kind(process: psutil.Process) -> str:
    """What a process is: its title without what differs from run to run."""
    with suppress(psutil.Error):
        words = process.cmdline() or [""]
        if words[0].startswith("ray::"):
            title = words[0].split()[0].removeprefix("ray::").removeprefix("ServeReplica:murmuration:")
            return title.partition(".")[0]
        if words[0].startswith("ray-dashboard-"):
            return "dashboard's modules"
        script = next((Path(word).stem for word in words if word.endswith(".py")), "")
        return script or process.name()
    return "gone"


def peak(process: psutil.Process) -> int:
    """Its peak resident memory in bytes: the kernel's own count where there is one, else what it has now."""
    status = Path(f"/proc/{process.pid}/status")
    with suppress(OSError, StopIteration):
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


@contextmanager
def watched() -> Iterator[Peaks]:
    """Peaks of what runs meanwhile."""
    peaks = Peaks()
    thread = threading.Thread(target=peaks.watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        peaks.end()
        thread.join()


def measure(recording: Path) -> dict[str, int]:
    """Peaks of every process of a fresh service that transcribes `recording`."""
    with service(engine="fake", models="fake") as client, watched() as peaks:
        job_id = client.submit_file(recording, {}, lambda _: None)["id"]
        last = [data for _, data in client.events(job_id)][-1]
        if last["phase"] != "completed":
            raise RuntimeError(f"{recording.name}: {last}")
        segments = len(client.transcript(job_id, "text").splitlines())
    say(f"{recording.stem}: {segments} segments")
    return peaks.bytes


def compare(title: str, short: Path, long: Path) -> float:
    """Print the table for two recordings; the greatest ratio."""
    before, after = measure(short), measure(long)
    names = sorted(before.keys() & after.keys(), key=lambda name: -after[name])
    ratios = {name: after[name] / before[name] for name in names if before[name]}
    rows = [(n, f"{before[n] / MB:.0f} MB", f"{after[n] / MB:.0f} MB", f"{ratio:.2f}") for n, ratio in ratios.items()]
    table(title, ("process", short.stem, long.stem, f"ratio (goal: at most {MOST})"), rows)
    return max(ratios.values())


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    audio = parser.parse_args().audio
    with TemporaryDirectory() as name:
        folder = Path(name)
        speech = [looped(audio, s, folder / f"speech, {s / 60:g} min.mp3") for s in (SHORT_S, SPEECH_S)]
        quiet = [silence(s, folder / f"silence, {s / 60:g} min.flac") for s in (SHORT_S, SILENCE_S)]
        greatest = max(compare("Peak memory, speech", *speech), compare("Peak memory, silence", *quiet))
    return int(greatest > MOST)


if __name__ == "__main__":
    sys.exit(main())
