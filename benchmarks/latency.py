"""Does the first segment of a long recording come as soon as that of a short one?

    python -m benchmarks.latency [--audio FILE] [--rounds N]

The same speech is looped to 2 and to 34 minutes, and both are sent in turns to one service with real Whisper. Measured
from the first byte of the upload to the first `segment` event. Exit status 1 if the long one takes over 1.5 times as long.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.house import SAMPLE, looped, say, service, table
from serve_app.client import Client

SHORT_S, LONG_S = 120, 34 * 60
MOST = 1.5


def first_segment_s(client: Client, recording: Path) -> float:
    """Seconds from the first byte sent to the first segment; the rest of the job is cancelled, and what the engine has of
    it is waited for."""
    began = time.perf_counter()
    job_id = client.submit_file(recording, {}, lambda _: None)["id"]
    took = 0.0
    for kind, _ in client.events(job_id):
        if kind == "segment" and not took:
            took = time.perf_counter() - began
            client.cancel(job_id)
    for _ in client.events(client.submit_file(SAMPLE, {}, lambda _: None)["id"]):
        pass
    return took


def measure(audio: Path, rounds: int) -> float:
    """Print the table; the ratio of the medians."""
    with TemporaryDirectory() as folder, service() as client:
        recordings = {s: looped(audio, s, Path(folder) / f"{s}.mp3") for s in (SHORT_S, LONG_S)}
        first_segment_s(client, recordings[SHORT_S])  # the first job of a service pays for its caches
        times: dict[int, list[float]] = {SHORT_S: [], LONG_S: []}
        for number in range(rounds):
            for seconds, recording in recordings.items():
                times[seconds].append(first_segment_s(client, recording))
            say(f"round {number + 1} of {rounds}: " + ", ".join(f"{s} s: {t[-1]:.2f} s" for s, t in times.items()))
    ratio = median(times[LONG_S]) / median(times[SHORT_S])
    rows = [(f"{s // 60} min", *(f"{f(t):.2f} s" for f in (min, median, max))) for s, t in times.items()]
    table(
        f"First segment, by length of the recording ({audio.name}, base, {rounds} rounds)",
        ("recording", "min", "median", "max"),
        [*rows, ("ratio of medians", "", f"{ratio:.2f}", f"goal: at most {MOST}")],
    )
    return ratio


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    return int(measure(arguments.audio, arguments.rounds) > MOST)


if __name__ == "__main__":
    sys.exit(main())
