"""What does it cost to poll a job that is done?

    python -m benchmarks.poll [--rounds N]

A GET of a finished job in each dialect, in turns with /healthz, one request at a time, through the same proxy. Exit status 1
where the median of one is more than half as long again as that of /healthz.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from statistics import median, quantiles
from threading import Thread
from typing import Any

import httpx

from benchmarks.lib.harness import SAMPLE, local_service, say, table

MOST = 1.5
WARMING = 20
UPLOADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "native": ("/v1/jobs", "file", {}),
    "bifrost": ("/v1/async/audio/transcriptions", "file", {"model": "openai/whisper-1", "response_format": "verbose_json"}),
    "transcripts": ("/v1/transcripts", "audio_file", {"word_timestamps": "true"}),
}
SHIFT = "/api/v1/inference/transcriptions/jobs"


class Quiet(SimpleHTTPRequestHandler):
    """Says nothing of what it serves."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def site() -> Iterator[str]:
    """A web server that has the sample; its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SAMPLE.parent)))
    Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{SAMPLE.name}"
    finally:
        server.shutdown()
        server.server_close()


def made(http: httpx.Client, source: str) -> dict[str, str]:
    """A finished job in each dialect: the paths of their GETs."""
    paths = {}
    for name, (path, field, data) in UPLOADS.items():
        with SAMPLE.open("rb") as file:
            answer = http.post(path, files={field: (SAMPLE.name, file)}, data=data).raise_for_status()
        paths[name] = f"{path}/{answer.json()['id']}"
    asked = {"model": "whisper-1", "source": {"kind": "url", "url": source}}
    paths["shift"] = f"{SHIFT}/{http.post(SHIFT, json=asked).raise_for_status().json()['data']['id']}"
    for path in paths.values():
        while b'"completed"' not in http.get(path).raise_for_status().content:
            time.sleep(0.1)
    return paths


def measure(rounds: int) -> float:
    """Print the table; the greatest ratio."""
    with (
        site() as source,
        local_service(engine="fake", models="fake", fetch_allow="127.0.0.0/8") as running,
        httpx.Client(base_url=running.url, timeout=30) as http,
    ):
        paths = {"healthz": "/healthz", **made(http, source)}
        times: dict[str, list[float]] = {name: [] for name in paths}
        for turn in range(rounds + WARMING):
            for name, path in paths.items():
                began = time.perf_counter()
                http.get(path).raise_for_status()
                if turn >= WARMING:
                    times[name].append((time.perf_counter() - began) * 1000)
    middle = {name: median(found) for name, found in times.items()}
    ratios = {name: found / middle["healthz"] for name, found in middle.items()}
    rows = [(n, f"{middle[n]:.2f} ms", f"{quantiles(times[n], n=100)[98]:.2f} ms", f"{ratios[n]:.2f}") for n in paths]
    table(f"Polling a finished job, {rounds} times each in turns", ("GET", "p50", "p99", "ratio of p50"), rows)
    return max(ratios.values())


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    worst = measure(parser.parse_args().rounds)
    say(f"\nthe greatest ratio is {worst:.2f}; goal: at most {MOST:g}")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
