"""Latency of clips that arrive while the bare engine decodes a long file. Exit status 1 if a goal is missed.

python -m benchmarks.clip_latency [--audio FILE] [--minutes 60] [--clips 5]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.lib.bare_engine import BareEngine
from benchmarks.lib.harness import SAMPLE, echo, looped, table
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, Decode

CLIP_S = 10
MAX_BATCHES, MAX_LOSS = 2.0, 0.03
ENGLISH = DecodeOptions(language="en")


class BatchTimer:
    """Wraps `decode` of an engine and records the duration of each batch."""

    def __init__(self, bare: BareEngine) -> None:
        self._decode = bare.engine.decode
        self.batches_s: list[float] = []
        bare.engine.decode = self  # type: ignore[method-assign]

    def __call__(self, clips: Sequence[Clip]) -> list[Decode]:
        began = time.perf_counter()
        try:
            return self._decode(clips)
        finally:
            self.batches_s.append(time.perf_counter() - began)


async def latency_s(bare: BareEngine, name: str, path: Path) -> float:
    began = time.perf_counter()
    await bare.transcribe(name, path, ENGLISH)
    return time.perf_counter() - began


async def measure(audio: Path, minutes: float, clips: int) -> bool:
    """Print the table; whether the goals are met."""
    with TemporaryDirectory() as folder:
        long = looped(audio, 60 * minutes, Path(folder) / "long.mp3")
        clip = looped(audio, CLIP_S, Path(folder) / "clip.mp3")
        async with BareEngine() as bare:
            await bare.transcribe("warm-up", clip, ENGLISH)
            alone_s = median([await latency_s(bare, f"alone-{i}", clip) for i in range(clips)])
            timer = BatchTimer(bare)
            long_alone_s = await latency_s(bare, "long-alone", long)
            batch_s = max(timer.batches_s)
            echo(f"alone: clip {alone_s:.2f} s, long file {long_alone_s:.1f} s, longest batch {batch_s:.2f} s")
            running = asyncio.create_task(latency_s(bare, "long-together", long))
            together_s = []
            for i in range(clips):
                await asyncio.sleep(long_alone_s / (clips + 2))
                together_s.append(await latency_s(bare, f"together-{i}", clip))
                echo(f"together: clip {together_s[-1]:.2f} s")
            long_together_s = await running
    wait_batches, loss = (max(together_s) - alone_s) / batch_s, long_together_s / long_alone_s - 1
    goals = (f"goal: at most {MAX_BATCHES:g}", f"goal: at most +{MAX_LOSS:.0%}")
    table(
        f"Clip of {CLIP_S} s beside a file of {minutes:g} min ({audio.name}, base, {clips} clips)",
        ("", "alone", "together", ""),
        [
            ("clip latency, median", f"{alone_s:.2f} s", f"{median(together_s):.2f} s", ""),
            ("clip latency, maximum", "", f"{max(together_s):.2f} s", f"waited for {wait_batches:.2f} batches; {goals[0]}"),
            ("long file, total", f"{long_alone_s:.1f} s", f"{long_together_s:.1f} s", f"{loss:+.1%}; {goals[1]}"),
            ("longest batch", f"{batch_s:.2f} s", "", ""),
        ],
    )
    return wait_batches <= MAX_BATCHES and loss <= MAX_LOSS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clips", type=int, default=5)
    arguments = parser.parse_args()
    return int(not asyncio.run(measure(arguments.audio, arguments.minutes, arguments.clips)))


if __name__ == "__main__":
    sys.exit(main())
