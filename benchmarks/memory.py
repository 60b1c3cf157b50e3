"""Peak memory of every process of the service, by length of the recording. Exit status 1 if a goal is missed.

python -m benchmarks.memory [--audio FILE]
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

from benchmarks.lib.harness import SAMPLE, echo, looped, service, silence, table

SHORT_S = 600
SPEECH_S, SILENCE_S = 2 * 3600, 4 * 3600
MAX_RATIO = 1.2
POLL_S = 0.2
MB = 1e6


class PeakMonitor:
    """Polls all descendants of this process; `bytes` holds peaks by kind."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._stop = threading.Event()

    def run(self) -> None:
        """Poll until `stop`."""
        processes: dict[int, tuple[psutil.Process, str]] = {}
        polls = 0
        while not self._stop.wait(POLL_S):
            polls += 1
            # Listing processes is expensive, and only ffmpeg is short-lived.
            if polls % 10 == 1:
                processes = {p.pid: (p, kind(p)) for p in psutil.Process().children(recursive=True)}
            for process, name in processes.values():
                self.bytes[name] = max(self.bytes.get(name, 0), peak(process))

    def stop(self) -> None:
        self._stop.set()


def kind(process: psutil.Process) -> str:
    """Title of a process without what differs from run to run."""
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
    """Peak resident memory in bytes."""
    status = Path(f"/proc/{process.pid}/status")
    with suppress(OSError, StopIteration):
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    with suppress(psutil.Error):
        return int(process.memory_info().rss)
    return 0


@contextmanager
def peak_monitor() -> Iterator[PeakMonitor]:
    """Record peaks in the background."""
    monitor = PeakMonitor()
    thread = threading.Thread(target=monitor.run, daemon=True)
    thread.start()
    try:
        yield monitor
    finally:
        monitor.stop()
        thread.join()


def measure(recording: Path) -> dict[str, int]:
    """Peaks in bytes of a new service that transcribes a recording."""
    with service(engine="fake", models="fake") as client, peak_monitor() as monitor:
        job_id = client.submit_file(recording, {}, lambda _: None)["id"]
        last = [data for _, data in client.events(job_id)][-1]
        if last["phase"] != "completed":
            raise RuntimeError(f"{recording.name}: {last}")
        segments = len(client.transcript(job_id, "text").splitlines())
    echo(f"{recording.stem}: {segments} segments")
    return monitor.bytes


def compare(title: str, short: Path, long: Path) -> float:
    """Print the table; the greatest ratio."""
    of_short, of_long = measure(short), measure(long)
    names = sorted(of_short.keys() & of_long.keys(), key=lambda name: -of_long[name])
    ratios = {name: of_long[name] / of_short[name] for name in names if of_short[name]}
    rows = [(n, f"{of_short[n] / MB:.0f} MB", f"{of_long[n] / MB:.0f} MB", f"{ratio:.2f}") for n, ratio in ratios.items()]
    table(title, ("process", short.stem, long.stem, f"ratio (goal: at most {MAX_RATIO})"), rows)
    return max(ratios.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    audio = parser.parse_args().audio
    with TemporaryDirectory() as name:
        folder = Path(name)
        speech = [looped(audio, s, folder / f"speech, {s / 60:g} min.mp3") for s in (SHORT_S, SPEECH_S)]
        silent = [silence(s, folder / f"silence, {s / 60:g} min.flac") for s in (SHORT_S, SILENCE_S)]
        greatest = max(compare("Peak memory, speech", *speech), compare("Peak memory, silence", *silent))
    return int(greatest > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
