"""Latency of polling a completed job in each dialect. Exit status 1 if a goal is missed.

python -m benchmarks.poll [--rounds N]
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

from benchmarks.lib.harness import SAMPLE, echo, local_service, table

MAX_RATIO = 1.5
WARM_UP = 20
UPLOADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "native": ("/v1/jobs", "file", {}),
    "bifrost": ("/v1/async/audio/transcriptions", "file", {"model": "openai/whisper-1", "response_format": "verbose_json"}),
    "transcripts": ("/v1/transcripts", "audio_file", {"word_timestamps": "true"}),
}
SHIFT = "/api/v1/inference/transcriptions/jobs"


class QuietHandler(SimpleHTTPRequestHandler):
    """File server without an access log."""

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def serve_sample() -> Iterator[str]:
    """Serve the sample by HTTP; yields its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(SAMPLE.parent)))
    Thread(target=server.serve_forever).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{SAMPLE.name}"
    finally:
        server.shutdown()
        server.server_close()


def complete_jobs(http: httpx.Client, source: str) -> dict[str, str]:
    """Complete a job in each dialect; the paths of their GETs."""
    paths = {}
    for name, (path, field, data) in UPLOADS.items():
        with SAMPLE.open("rb") as file:
            response = http.post(path, files={field: (SAMPLE.name, file)}, data=data).raise_for_status()
        paths[name] = f"{path}/{response.json()['id']}"
    body = {"model": "whisper-1", "source": {"kind": "url", "url": source}}
    paths["shift"] = f"{SHIFT}/{http.post(SHIFT, json=body).raise_for_status().json()['data']['id']}"
    for path in paths.values():
        while b'"completed"' not in http.get(path).raise_for_status().content:
            time.sleep(0.1)
    return paths


def measure(rounds: int) -> float:
    """Print the table; the greatest ratio."""
    with (
        serve_sample() as source,
        local_service(engine="fake", models="fake", fetch_allow="127.0.0.0/8") as running,
        httpx.Client(base_url=running.url, timeout=30) as http,
    ):
        paths = {"healthz": "/healthz", **complete_jobs(http, source)}
        times: dict[str, list[float]] = {name: [] for name in paths}
        for turn in range(rounds + WARM_UP):
            for name, path in paths.items():
                began = time.perf_counter()
                http.get(path).raise_for_status()
                if turn >= WARM_UP:
                    times[name].append((time.perf_counter() - began) * 1000)
    medians = {name: median(values) for name, values in times.items()}
    ratios = {name: value / medians["healthz"] for name, value in medians.items()}
    rows = [(n, f"{medians[n]:.2f} ms", f"{quantiles(times[n], n=100)[98]:.2f} ms", f"{ratios[n]:.2f}") for n in paths]
    table(f"Polling a completed job ({rounds} requests each, in turn)", ("GET", "p50", "p99", "ratio of p50"), rows)
    return max(ratios.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    worst = measure(parser.parse_args().rounds)
    echo(f"\nthe greatest ratio is {worst:.2f}; goal: at most {MAX_RATIO:g}")
    return int(worst > MAX_RATIO)


if __name__ == "__main__":
    sys.exit(main())
