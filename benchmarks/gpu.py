"""Throughput of the engine on a GPU, with random weights, beside faster-whisper's batched pipeline. Exit status 2 if the
device cannot be used.

    python -m benchmarks.gpu [--shape large-v3] [--batches 1,4,8,16,32,64] [--windows 128] [--weights DIR] [--device cuda]
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

import ctranslate2
import faster_whisper
import numpy as np
import torch

from batching.batcher import Batcher
from batching.scheduler import Scheduler
from batching.types import SAMPLE_RATE
from batching.windows import WindowLimits
from benchmarks.lib.harness import echo, markdown
from benchmarks.lib.synthetic_weights import SHAPES, FixedLengthEngine, Shape, random_weights, timed
from deployments.errors import ModelUnavailable
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, Decode, EngineConfig

WINDOW_S, LONGEST_S = WindowLimits().longest_s, 30.0
MAX_BATCHES = 8  # per batch size, so that small batches do not take most of the time
MAX_TOKENS = 224
STAGES = ("features", "encoder", "decoder")
BOTTLENECKS = ("features", "encoder compute", "decoder bandwidth")
OURS, BATCHED, WITH_TIMES = "Murmuration", "faster-whisper batched", "batched with timestamps"
PUBLISHED = """Every text has that length (end of text suppressed, no fallback); no time depends on the weights' values.
Published, with trained weights on other audio: whisper-blaze, H100, large-v3: 418 fast, 215 accurate; InferenceBench, H100,
turbo: 404."""
FORMULAS = """The card's rates are those of one large matrix product and one large copy, measured in this run; the ceiling
is the throughput if encoder and decoder ran at these rates. With w the width, the encoder does 2·3·w·(3000·mels + 1500·w)
+ layers·(24·1500·w² + 4·1500²·w) operations per window; the decoder 4·1500·layers·w² once per window, and for each token of
a batch it reads 14·layers·w² + vocabulary·w + batch·2·layers·w·(1500 + tokens/2) numbers. Memory: peak of the whole card."""


@dataclass(frozen=True, slots=True)
class Card:
    """Measured rates of a device."""

    flops: float  # floating point operations per second
    bandwidth: float  # bytes per second, read and written

    @classmethod
    def measure(cls, device: str) -> Card:
        """Measure a large matrix product and a large copy."""
        side, size, repeats = (8192, 1 << 30, 20) if device == "cuda" else (1024, 1 << 26, 2)
        left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, precision(device)[0])) for _ in range(2))
        product, source = torch.empty_like(left), torch.ones(size, dtype=torch.uint8, device=device)
        copy = torch.empty_like(source)
        seconds = []
        for operation in (partial(torch.matmul, left, right, out=product), partial(copy.copy_, source)):
            operation()
            seconds.append(timed(lambda: [operation() for _ in range(repeats)], device)[1])  # noqa: B023
        return cls(2.0 * side**3 * repeats / seconds[0], 2.0 * size * repeats / seconds[1])


def precision(device: str) -> tuple[str, int]:
    """Type of weights: its name, and its size in bytes."""
    return ("float16", 2) if device == "cuda" else ("float32", 4)


@dataclass(frozen=True, slots=True)
class Measurement:
    """Result for one batch size."""

    batch: int
    speeds: dict[str, float]  # audio seconds per second, by side
    stages_s: tuple[float, float, float]  # of a batch
    minimum_s: tuple[float, float]  # of encoder and decoder at the card's rates
    memory: int  # peak bytes in use on the card

    def speed_row(self) -> list[object]:
        ours, *others = self.speeds.values()
        return [self.batch, *(f"{speed:.1f}" for speed in (ours, *others)), *(f"{ours / other:.2f}" for other in others)]

    def stage_row(self) -> list[object]:
        stages = [f"{seconds * 1000:.1f} ms ({seconds / sum(self.stages_s):.0%})" for seconds in self.stages_s]
        rates = [f"{least / took:.0%}" for least, took in zip(self.minimum_s, self.stages_s[1:], strict=True)]
        memory = f"{self.memory / 2**30:.1f} GiB" if self.memory else "-"
        return [self.batch, *stages, *rates, f"{self.batch * WINDOW_S / sum(self.minimum_s):.0f}", memory]

    def bottleneck(self) -> str:
        slowest = max(range(len(STAGES)), key=lambda i: self.stages_s[i])
        rate = f", at {self.minimum_s[slowest - 1] / self.stages_s[slowest]:.0%} of the card's rate" if slowest else ""
        share = self.stages_s[slowest] / sum(self.stages_s)
        return f"Bottleneck: {BOTTLENECKS[slowest]} ({share:.0%} of the time in batches of {self.batch}{rate})."


def sides(engine: FixedLengthEngine, batch: int) -> dict[str, Callable[[int], object]]:
    """Functions that decode a number of windows in batches of `batch`, by name."""
    # Ours always decodes timestamps; the reference only with `times`.
    window = np.random.default_rng(0).standard_normal(int(WINDOW_S * SAMPLE_RATE), np.float32) * np.float32(0.1)

    def ours(count: int) -> object:
        return asyncio.run(decode_batched(engine, [Clip(window, DecodeOptions(language="en"))] * count, batch))

    def reference(count: int, *, times: bool) -> object:
        spans = [{"start": i * WINDOW_S, "end": (i + 1) * WINDOW_S} for i in range(count)]
        options = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": not times}
        audio = np.tile(window, count)
        return list(engine.reference.transcribe(audio, clip_timestamps=spans, batch_size=batch, **options)[0])

    return {OURS: ours, BATCHED: partial(reference, times=False), WITH_TIMES: partial(reference, times=True)}


async def decode_batched(engine: FixedLengthEngine, clips: Sequence[Clip], batch: int) -> list[Decode]:
    """Decode by engine and batcher as the service does. Raises RuntimeError if a batch failed."""
    ahead = concurrent_batches(engine) - engine.workers
    with ThreadPoolExecutor(concurrent_batches(engine)) as threads:

        async def decode(batch_clips: Sequence[Clip]) -> Sequence[Decode]:
            return await asyncio.get_running_loop().run_in_executor(threads, engine.decode, batch_clips)

        batcher = Batcher(decode, Scheduler(batch, batch * LONGEST_S), engine.workers, ahead)
        submit = (batcher.submit(c, job="job", tenant="me", cost=WINDOW_S, kind=engine.kind(c)) for c in clips)
        decodes = await asyncio.gather(*submit)
    if batcher.stats.batches > len(clips) // batch:
        raise RuntimeError("our engine could not decode a batch and halved it")
    return decodes


def concurrent_batches(engine: FixedLengthEngine) -> int:
    # On a GPU one batch is prepared while the others run.
    return engine.workers + (engine.info.device == "cuda")


def measure(engine: FixedLengthEngine, shape: Shape, card: Card, batch: int, windows: int, rounds: int) -> Measurement:
    """Measure all sides in turn, best of `rounds`. Raises RuntimeError if one fails."""
    device, at_once, tokens = engine.info.device, batch * concurrent_batches(engine), engine.tokens
    count = at_once * max(1, min(windows, MAX_BATCHES * batch) // at_once)
    decoders = sides(engine, batch)
    memory = [peak_memory(partial(decode, at_once), device) for decode in decoders.values()]
    times = [{name: timed(partial(decode, count), device)[1] for name, decode in decoders.items()} for _ in range(rounds)]
    speeds = {name: count * WINDOW_S / min(seconds[name] for seconds in times) for name in decoders}
    clip = Clip(np.zeros(int(WINDOW_S * SAMPLE_RATE), np.float32), DecodeOptions(language="en"))
    stages_s = min((engine.stage_times_s([clip] * batch) for _ in range(rounds)), key=sum)
    read_s = tokens * shape.step_bytes(batch, tokens, precision(device)[1]) / card.bandwidth
    decoder_s = read_s + batch * shape.cross_attention_flops() / card.flops
    minimum_s = (batch * shape.encoder_flops() / card.flops, decoder_s)
    return Measurement(batch, speeds, stages_s, minimum_s, memory[0])


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Run, and return the peak of bytes in use on the card."""
    done, used = Event(), [0]

    def watch() -> None:
        while device == "cuda" and not done.wait(0.01):
            free, total = torch.cuda.mem_get_info()
            used.append(total - free)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(used)


def report(shape: str, card: Card, engine: FixedLengthEngine, sizes: Sequence[Measurement]) -> None:
    names = list(sizes[0].speeds)
    echo(f"\n### {shape}, {engine.tokens} tokens per {WINDOW_S:.0f} s, greedy\n")
    head = ("batch", *(f"{name}, audio s/s" for name in names), *(f"ratio to {name}" for name in names[1:]))
    markdown(head, [size.speed_row() for size in sizes])
    echo(f"\n{PUBLISHED}\n\n### Stages of a batch, one after another\n")
    head = ("batch", *STAGES, "encoder, share of the card's rate", "decoder, share of the card's rate", "ceiling", "memory")
    markdown(head, [size.stage_row() for size in sizes])
    name = torch.cuda.get_device_name() if engine.info.device == "cuda" else "CPU"
    echo(f"\n{name}: {card.flops / 1e12:.2f} TFLOP/s, {card.bandwidth / 1e9:.0f} GB/s. {FORMULAS}\n")
    versions = (
        f"torch {torch.__version__}, CTranslate2 {ctranslate2.__version__}, faster-whisper {faster_whisper.__version__}"
    )
    echo(f"{engine.info.compute_type}, {engine.workers} batches at once; {versions}, Python {platform.python_version()}\n")
    echo(max(sizes, key=lambda size: size.speeds[OURS]).bottleneck())


def run(options: argparse.Namespace) -> None:
    """Measure and report every batch size. Raises ModelUnavailable."""
    device, shape, sizes = options.device, SHAPES[options.shape], []
    if device == "cuda" and not (torch.cuda.is_available() and ctranslate2.get_cuda_device_count()):
        raise ModelUnavailable("No usable NVIDIA GPU was found: use --device cpu.")
    with TemporaryDirectory(prefix="weights-") as folder:
        weights = str(options.weights or random_weights(shape, Path(folder)))
        kind = precision(device)[0]
        config = EngineConfig("faster_whisper", weights, folder, device, kind, options.workers, max(options.batches))
        engine = FixedLengthEngine(config, options.tokens)
    if not engine.matches(shape):
        raise ModelUnavailable(f"The weights do not have the shape of {options.shape}: pass theirs as --shape.")
    card = Card.measure(device)
    for batch in options.batches:
        try:
            sizes.append(measure(engine, shape, card, batch, options.windows, options.rounds))
        except RuntimeError as error:
            print(f"benchmarks.gpu: batches of {batch} failed: {error}", file=sys.stderr)
            break
        # At once: a run that times out has printed what it measured.
        print(f"batches of {batch}: {sizes[-1].speeds}, stages {sizes[-1].stages_s} s", file=sys.stderr, flush=True)
    if sizes:
        report(options.shape + (", trained weights" if options.weights else ", random weights"), card, engine, sizes)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="large-v3")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--windows", type=int, default=128, help="maximum per batch size")
    parser.add_argument("--weights", type=Path, help="directory of a CTranslate2 model of that shape")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, default=100, choices=range(1, MAX_TOKENS + 1), metavar="N")
    parser.add_argument("--workers", type=int, default=1, help="batches decoded concurrently")
    parser.add_argument("--rounds", type=int, default=2, help="repetitions, of which the best counts")
    try:
        run(parser.parse_args())
    except ModelUnavailable as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
