"""Latency of the first segment by length of the recording, of clips beside a long file, and of commit to SSE client.
Exit status 1 if the goal is missed.

    python -m benchmarks.latency [--audio FILE] [--rounds N]
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

from benchmarks.lib.harness import SAMPLE, echo, local_service, looped, table
from benchmarks.lib.sse_reader import SseReader
from serve_app.cli.client import Client

CLIP_S, SHORT_S, LONG_S = 10, 120, 34 * 60
MAX_RATIO = 1.5


def first_segment_s(client: Client, recording: Path) -> float:
    """Measure from the first byte sent to the first segment, then cancel the job."""
    began = time.perf_counter()
    job_id = client.submit_file(recording, {}, lambda _: None)["id"]
    took = 0.0
    for kind, _ in client.events(job_id):
        if kind == "segment" and not took:
            took = time.perf_counter() - began
            client.cancel(job_id)
    total_s(client, SAMPLE)  # waits until the engine has finished the cancelled job's windows
    return took


def total_s(client: Client, recording: Path) -> float:
    """Measure from the first byte sent to the end of the job."""
    began = time.perf_counter()
    for _ in client.events(client.submit_file(recording, {}, lambda _: None)["id"]):
        pass
    return time.perf_counter() - began


@contextmanager
def transcribing(url: str, client: Client, recording: Path) -> Iterator[SseReader]:
    """Keep the service transcribing a recording; yields the reader that follows it."""
    job_id = client.submit_file(recording, {}, lambda _: None)["id"]
    reader = SseReader(url, job_id)
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
    first_segment_s(client, recordings[SHORT_S])  # warm-up
    times: dict[int, list[float]] = {seconds: [] for seconds in recordings}
    for number in range(rounds):
        for seconds, recording in recordings.items():
            times[seconds].append(first_segment_s(client, recording))
        echo(f"round {number + 1} of {rounds}: " + ", ".join(f"{s} s: {t[-1]:.2f} s" for s, t in times.items()))
    ratio = median(times[LONG_S]) / median(times[SHORT_S])
    table(
        f"First segment, by length of the recording (base, {rounds} rounds)",
        ("recording", "min", "median", "max"),
        [
            *(_row(f"{s // 60} min", t) for s, t in times.items()),
            ("ratio of medians", "", f"{ratio:.2f}", f"goal: at most {MAX_RATIO}"),
        ],
    )
    return ratio


def clip_latency(url: str, client: Client, clip: Path, long: Path, rounds: int) -> None:
    alone = [total_s(client, clip) for _ in range(rounds)]
    with transcribing(url, client, long) as reader:
        beside = [total_s(client, clip) for _ in range(rounds)]
    delays_ms = reader.delays_ms
    table(
        f"From upload to end ({rounds} rounds)",
        ("recording", "min", "median", "max"),
        [
            _row(f"clip of {CLIP_S} s, alone", alone),
            _row(f"clip of {CLIP_S} s, beside the {LONG_S // 60} min file", beside),
        ],
    )
    echo(
        f"\nFrom the commit of an event to its reader, {len(delays_ms)} events: median {median(delays_ms):.0f} ms, "
        f"95 of 100 within {quantiles(delays_ms, n=20)[-1]:.0f} ms, at most {max(delays_ms):.0f} ms."
    )


def _row(name: str, times: Sequence[float]) -> tuple[str, ...]:
    return name, *(f"{figure(times):.2f} s" for figure in (min, median, max))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, local_service() as running, Client(running.url) as client:
        clip, short, long = (looped(arguments.audio, s, Path(folder) / f"{s}.mp3") for s in (CLIP_S, SHORT_S, LONG_S))
        os.sync()  # pending writes of the files would delay the job store's fsync
        ratio = first_segments(client, {SHORT_S: short, LONG_S: long}, arguments.rounds)
        clip_latency(running.url, client, clip, long, arguments.rounds)
    return int(ratio > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
