"""Does a clip wait for a long file, and what does that lose by letting it pass?

    python -m benchmarks.clip_latency [--audio FILE] [--minutes 60] [--clips 5]

The bare engine decodes a long recording of looped speech alone, then again while clips of ten seconds arrive one after
another. Exit status 1 if a clip takes longer than it does alone and two batches, or the long file over 3 % more.
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

from benchmarks.lib.bare_engine import Bare
from benchmarks.lib.harness import SAMPLE, looped, say, table
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, Decode

CLIP_S = 10
MOST_BATCHES, MOST_LOSS = 2.0, 0.03
ENGLISH = DecodeOptions(language="en")


class Timed:
    """Takes the place of an engine's `decode`, and remembers how long each batch took."""

    def __init__(self, bare: Bare) -> None:
        self._decode = bare.engine.decode
        self.batches_s: list[float] = []
        bare.engine.decode = self  # type: ignore[method-assign]

    def __call__(self, clips: Sequence[Clip]) -> list[Decode]:
        began = time.perf_counter()
        try:
            return self._decode(clips)
        finally:
            self.batches_s.append(time.perf_counter() - began)


async def seconds(bare: Bare, name: str, path: Path) -> float:
    """How long a recording takes."""
    began = time.perf_counter()
    await bare.one(name, path, ENGLISH)
    return time.perf_counter() - began


async def measure(audio: Path, minutes: float, clips: int) -> bool:
    """Print the table; whether the goals are met."""
    with TemporaryDirectory() as folder:
        long = looped(audio, 60 * minutes, Path(folder) / "long.mp3")
        clip = looped(audio, CLIP_S, Path(folder) / "clip.mp3")
        async with Bare() as bare:
            await bare.one("warm-up", clip, ENGLISH)
            alone_s = median([await seconds(bare, f"alone-{i}", clip) for i in range(clips)])
            timed = Timed(bare)
            undisturbed_s = await seconds(bare, "undisturbed", long)
            batch_s = max(timed.batches_s)
            say(f"alone: clip {alone_s:.2f} s, long file {undisturbed_s:.1f} s, longest batch {batch_s:.2f} s")
            running = asyncio.create_task(seconds(bare, "disturbed", long))
            beside_s = []
            for i in range(clips):
                await asyncio.sleep(undisturbed_s / (clips + 2))
                beside_s.append(await seconds(bare, f"beside-{i}", clip))
                say(f"beside: clip {beside_s[-1]:.2f} s")
            disturbed_s = await running
    waited, loss = (max(beside_s) - alone_s) / batch_s, disturbed_s / undisturbed_s - 1
    table(
        f"A clip of {CLIP_S} s beside a file of {minutes:g} min ({audio.name}, base, {clips} clips)",
        ("", "alone", "beside", ""),
        [
            ("clip, median", f"{alone_s:.2f} s", f"{median(beside_s):.2f} s", ""),
            ("clip, longest", "", f"{max(beside_s):.2f} s", f"waited {waited:.2f} batches; goal: at most {MOST_BATCHES:g}"),
            ("long file", f"{undisturbed_s:.1f} s", f"{disturbed_s:.1f} s", f"{loss:+.1%}; goal: at most +{MOST_LOSS:.0%}"),
            ("longest batch", f"{batch_s:.2f} s", "", ""),
        ],
    )
    return waited <= MOST_BATCHES and loss <= MOST_LOSS


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="speech to loop")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clips", type=int, default=5)
    arguments = parser.parse_args()
    return int(not asyncio.run(measure(arguments.audio, arguments.minutes, arguments.clips)))


if __name__ == "__main__":
    sys.exit(main())
