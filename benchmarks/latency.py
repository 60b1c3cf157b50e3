"""Does the first segment of a long recording come as soon as that of a short one, how far behind the model are its readers,
and how long does a clip take beside it?

    python -m benchmarks.latency [--audio FILE] [--rounds N]

The same speech is looped to 2 and to 34 minutes, and both are sent in turns to one service with real Whisper: measured
from the first byte of the upload to the first `segment` event. Then a clip of ten seconds is sent again and again, alone and
while the long recording is worked on; a reader follows that one, and the id of each event tells when it was committed. Exit
status 1 if the long one's first segment takes over 1.5 times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

from benchmarks.lib.harness import SAMPLE, local_service, looped, say, table
from benchmarks.lib.sse_reader import Reader
from serve_app.cli.client import Client

CLIP_S, SHORT_S, LONG_S = 10, 120, 34 * 60
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
    whole_s(client, SAMPLE)
    return took


def whole_s(client: Client, recording: Path) -> float:
    """Seconds from the first byte sent to the end."""
    began = time.perf_counter()
    for _ in client.events(client.submit_file(recording, {}, lambda _: None)["id"]):
        pass
    return time.perf_counter() - began


@contextmanager
def at_work(url: str, client: Client, recording: Path) -> Iterator[Reader]:
    """While the service works on a recording, from its first segment on, and somebody reads it."""
    job_id = client.submit_file(recording, {}, lambda _: None)["id"]
    reader = Reader(url, job_id)
    following = threading.Thread(target=lambda: asyncio.run(reader.follow()))
    following.start()
    try:
        next(kind for kind, _ in client.events(job_id) if kind == "segment")
        yield reader
    finally:
        client.cancel(job_id)
        following.join()


def first_segments(client: Client, recordings: dict[int, Path], rounds: int) -> float:
    """Print the table; the ratio of the medians."""
    first_segment_s(client, recordings[SHORT_S])  # the first job of a service pays for its caches
    times: dict[int, list[float]] = {seconds: [] for seconds in recordings}
    for number in range(rounds):
        for seconds, recording in recordings.items():
            times[seconds].append(first_segment_s(client, recording))
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{s} s: {t[-1]:.2f} s" for s, t in times.items()))
    ratio = median(times[LONG_S]) / median(times[SHORT_S])
    table(
        f"First segment, by length of the recording (base, {rounds} rounds)",
        ("recording", "min", "median", "max"),
        [
            *(_row(f"{s // 60} min", t) for s, t in times.items()),
            ("ratio of medians", "", f"{ratio:.2f}", f"goal: at most {MOST}"),
        ],
    )
    return ratio


def clips_beside(url: str, client: Client, clip: Path, long: Path, rounds: int) -> None:
    """Print the table of clips, and of how far behind a reader is meanwhile."""
    alone = [whole_s(client, clip) for _ in range(rounds)]
    with at_work(url, client, long) as reader:
        beside = [whole_s(client, clip) for _ in range(rounds)]
    lags_ms = reader.delays_ms
    table(
        f"A clip of {CLIP_S} s, upload to end, and the long recording's reader ({rounds} rounds)",
        ("", "min", "median", "max"),
        [_row("clip alone", alone), _row(f"clip beside {LONG_S // 60} min", beside)],
    )
    say(
        f"\nFrom the commit of an event to its reader, {len(lags_ms)} events: median {median(lags_ms):.0f} ms, 95 of 100 "
        f"within {quantiles(lags_ms, n=20)[-1]:.0f} ms, at most {max(lags_ms):.0f} ms."
    )


def _row(name: str, times: Sequence[float]) -> tuple[str, ...]:
    return name, *(f"{figure(times):.2f} s" for figure in (min, median, max))


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, local_service() as running, Client(running.url) as client:
        clip, short, long = (looped(arguments.audio, s, Path(folder) / f"{s}.mp3") for s in (CLIP_S, SHORT_S, LONG_S))
        os.sync()  # what making them has left to write would keep the job store waiting for the disk
        ratio = first_segments(client, {SHORT_S: short, LONG_S: long}, arguments.rounds)
        clips_beside(running.url, client, clip, long, arguments.rounds)
    return int(ratio > MOST)


if __name__ == "__main__":
    sys.exit(main())
