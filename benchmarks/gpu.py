"""How fast is the engine on this card, beside faster-whisper's batched pipeline, and how near is it to what the card can do?

    python -m benchmarks.gpu [--shape large-v3] [--batches 1,4,8,16,32,64] [--windows 128] [--weights DIR] [--device cuda]

It needs no service, no network and no trained model: weights are random unless `--weights` names some, which no time depends
on, and the sound is noise. What they say is nonsense: so all windows are decoded greedily and to the same number of tokens,
the end of the text is suppressed, and what may follow a decode (a beam, another try, the times of words) is left out. Both
sides run one model in memory, in turns. Exit status 2 where the device cannot be used.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
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
from benchmarks.lib.synthetic_weights import SHAPES, FixedLength, Shape, random_weights, timed
from deployments.errors import ModelUnavailable
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, Decode, EngineConfig

WINDOW_S, LONGEST_S = WindowLimits().longest_s, 30.0
BATCHES_AT_MOST = 8
"""Of a size, so that small ones do not take all the time."""
MOST_TOKENS = 224
PARTS = ("features", "encoder", "decoder")
LIMITS = ("features", "encoder compute", "decoder bandwidth")
PUBLISHED = """Every text is that long, its end suppressed, with no second try; no time depends on the weights' values.
Published, of trained weights on other audio: whisper-blaze, H100, large-v3: 418 fast, 215 accurate; InferenceBench, H100,
turbo: 404."""
FORMULAS = """Rates are of one large product of matrices and one large copy, measured in this run; the ceiling is the
audio seconds per second if encoder and decoder ran at them. With w the width, the encoder does 2·3·w·(3000·mels + 1500·w)
+ layers·(24·1500·w² + 4·1500²·w) operations a window; the decoder 4·1500·layers·w² a window once, and for each token of a
batch it reads 14·layers·w² + vocabulary·w + batch·2·layers·w·(1500 + tokens/2) numbers. Memory: all that was in use."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a device can do: floating point operations a second, bytes a second read and written."""

    flops: float
    bandwidth: float

    @classmethod
    def measured(cls, device: str) -> Card:
        """By a large product of matrices, in float16 on a GPU, and a large copy."""
        side, size, turns = (8192, 1 << 30, 20) if device == "cuda" else (1024, 1 << 26, 2)
        left, right = (torch.randn(side, side, device=device, dtype=getattr(torch, precision(device)[0])) for _ in range(2))
        product, source = torch.empty_like(left), torch.ones(size, dtype=torch.uint8, device=device)
        copy = torch.empty_like(source)
        seconds = []
        for work in (partial(torch.matmul, left, right, out=product), partial(copy.copy_, source)):
            work()
            seconds.append(timed(lambda: [work() for _ in range(turns)], device)[1])  # noqa: B023
        return cls(2.0 * side**3 * turns / seconds[0], 2.0 * size * turns / seconds[1])


def precision(device: str) -> tuple[str, int]:
    """Its name, and its bytes."""
    return ("float16", 2) if device == "cuda" else ("float32", 4)


@dataclass(frozen=True, slots=True)
class Measured:
    """One size of batch: audio seconds per second of each side; seconds of a batch's parts, and the least that the card
    needs for its encoder and its decoder; the most bytes of the card that were in use."""

    batch: int
    speeds: dict[str, float]
    parts: tuple[float, float, float]
    least: tuple[float, float]
    memory: int

    def speed_row(self) -> list[object]:
        """For the first table."""
        mine, *others = self.speeds.values()
        return [self.batch, *(f"{speed:.1f}" for speed in (mine, *others)), *(f"{mine / other:.2f}" for other in others)]

    def part_row(self) -> list[object]:
        """For the second table."""
        parts = [f"{seconds * 1000:.1f} ms ({seconds / sum(self.parts):.0%})" for seconds in self.parts]
        near = [f"{least / took:.0%}" for least, took in zip(self.least, self.parts[1:], strict=True)]
        memory = f"{self.memory / 2**30:.1f} GiB" if self.memory else "-"
        return [self.batch, *parts, *near, f"{self.batch * WINDOW_S / sum(self.least):.0f}", memory]

    def verdict(self) -> str:
        """What limits."""
        slowest = max(range(len(PARTS)), key=lambda i: self.parts[i])
        near = f", at {self.least[slowest - 1] / self.parts[slowest]:.0%} of what the card can do" if slowest else ""
        share = self.parts[slowest] / sum(self.parts)
        return f"Limit: {LIMITS[slowest]} ({share:.0%} of the time in batches of {self.batch}{near})."


def sides(engine: FixedLength, batch: int) -> dict[str, Callable[[int], object]]:
    """By name, what decodes so many windows in batches of `batch`. Ours says when things were said; the reference does not
    unless asked to."""
    window = np.random.default_rng(0).standard_normal(int(WINDOW_S * SAMPLE_RATE), np.float32) * np.float32(0.1)

    def mine(count: int) -> object:
        return asyncio.run(ours(engine, [Clip(window, DecodeOptions(language="en"))] * count, batch))

    def theirs(count: int, *, times: bool) -> object:
        spans = [{"start": i * WINDOW_S, "end": (i + 1) * WINDOW_S} for i in range(count)]
        options = {"language": "en", "beam_size": 1, "temperature": 0.0, "without_timestamps": not times}
        sound = np.tile(window, count)
        return list(engine.reference.transcribe(sound, clip_timestamps=spans, batch_size=batch, **options)[0])

    plain, timely = partial(theirs, times=False), partial(theirs, times=True)
    return {"ours": mine, "faster-whisper batched": plain, "the same with times": timely}


async def ours(engine: FixedLength, clips: Sequence[Clip], batch: int) -> list[Decode]:
    """Engine and batcher, put together as for the service. RuntimeError where a batch failed and was halved."""
    ahead = lanes(engine) - engine.workers
    with ThreadPoolExecutor(lanes(engine)) as threads:

        async def decode(some: Sequence[Clip]) -> Sequence[Decode]:
            return await asyncio.get_running_loop().run_in_executor(threads, engine.decode, some)

        batcher = Batcher(decode, Scheduler(batch, batch * LONGEST_S), engine.workers, ahead)
        submit = (batcher.submit(c, job="job", tenant="me", cost=WINDOW_S, kind=engine.kind(c)) for c in clips)
        decodes = await asyncio.gather(*submit)
    if batcher.stats.batches > len(clips) // batch:
        raise RuntimeError("our engine could not decode one, and halved it")
    return decodes


def lanes(engine: FixedLength) -> int:
    """Batches at once; on a GPU one is made ready while the others run."""
    return engine.workers + (engine.info.device == "cuda")


def measure(engine: FixedLength, shape: Shape, card: Card, batch: int, windows: int, rounds: int) -> Measured:
    """All sides in turns, the best of `rounds`, in whole batches. RuntimeError where one of them fails."""
    device, at_once, tokens = engine.info.device, batch * lanes(engine), engine.tokens
    count = at_once * max(1, min(windows, BATCHES_AT_MOST * batch) // at_once)
    works = sides(engine, batch)
    memory = [peak_memory(partial(work, at_once), device) for work in works.values()]
    turns = [{name: timed(partial(work, count), device)[1] for name, work in works.items()} for _ in range(rounds)]
    speeds = {name: count * WINDOW_S / min(turn[name] for turn in turns) for name in works}
    clip = Clip(np.zeros(int(WINDOW_S * SAMPLE_RATE), np.float32), DecodeOptions(language="en"))
    parts = min((engine.parts([clip] * batch) for _ in range(rounds)), key=sum)
    read_s = tokens * shape.step_bytes(batch, tokens, precision(device)[1]) / card.bandwidth
    least = (batch * shape.encoder_flops() / card.flops, read_s + batch * shape.crossing_flops() / card.flops)
    return Measured(batch, speeds, parts, least, memory[0])


def peak_memory(work: Callable[[], object], device: str) -> int:
    """Do it; the most bytes of the card that were in use meanwhile."""
    done, used = Event(), [0]

    def watch() -> None:
        while device == "cuda" and not done.wait(0.01):
            free, total = torch.cuda.mem_get_info()
            used.append(total - free)

    watcher = Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return max(used)


def report(shape: str, card: Card, engine: FixedLength, sizes: Sequence[Measured]) -> None:
    """Print the tables, and what limits."""
    names = list(sizes[0].speeds)
    print(f"\n### {shape}, {engine.tokens} tokens for each {WINDOW_S:.0f} s, greedy: audio seconds per second\n")
    table(("batch", *names, *(f"ours / {name}" for name in names[1:])), (size.speed_row() for size in sizes))
    print(f"\n{PUBLISHED}\n\n### The parts of a batch, one after another\n")
    head = ("batch", *PARTS, "encoder, of the card's rate", "decoder, of the card's rate", "ceiling", "memory")
    table(head, (size.part_row() for size in sizes))
    name = torch.cuda.get_device_name() if engine.info.device == "cuda" else "CPU"
    print(f"\n{name}: {card.flops / 1e12:.2f} TFLOP/s, {card.bandwidth / 1e9:.0f} GB/s. {FORMULAS}\n")
    versions = (
        f"torch {torch.__version__}, CTranslate2 {ctranslate2.__version__}, faster-whisper {faster_whisper.__version__}"
    )
    print(f"{engine.info.compute_type}, {engine.workers} at once; {versions}, Python {platform.python_version()}\n")
    print(max(sizes, key=lambda size: size.speeds["ours"]).verdict(), flush=True)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> None:
    """Print it in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(str, row)) + " |")


def run(asked: argparse.Namespace) -> None:
    """Make what is missing, measure every size of batch, report. ModelUnavailable where the device cannot be used."""
    device, shape, sizes = asked.device, SHAPES[asked.shape], []
    if device == "cuda" and not (torch.cuda.is_available() and ctranslate2.get_cuda_device_count()):
        raise ModelUnavailable("The device cuda was asked for, but no usable NVIDIA GPU was found: use --device cpu.")
    with TemporaryDirectory(prefix="weights-") as folder:
        weights = str(asked.weights or random_weights(shape, Path(folder)))
        kind = precision(device)[0]
        config = EngineConfig("faster_whisper", weights, folder, device, kind, asked.workers, max(asked.batches))
        engine = FixedLength(config, asked.tokens)
    if not engine.has(shape):
        raise ModelUnavailable(f"The weights have not the shape of {asked.shape}: name theirs with --shape.")
    card = Card.measured(device)
    for batch in asked.batches:
        try:
            sizes.append(measure(engine, shape, card, batch, asked.windows, asked.rounds))
        except RuntimeError as error:
            print(f"benchmarks.gpu: batches of {batch} failed: {error}", file=sys.stderr)
            break
        # A run that is cut off has told what it measured.
        print(f"batches of {batch}: {sizes[-1].speeds}, parts {sizes[-1].parts} s", file=sys.stderr, flush=True)
    if sizes:
        report(asked.shape + (", given weights" if asked.weights else ", random weights"), card, engine, sizes)


def main() -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="large-v3")
    parser.add_argument("--batches", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 8, 16, 32, 64])
    parser.add_argument("--windows", type=int, default=128, help="at most, for each size of batch")
    parser.add_argument("--weights", type=Path, help="a directory of a CTranslate2 model of that shape")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tokens", type=int, default=100, choices=range(1, MOST_TOKENS + 1), metavar="N")
    parser.add_argument("--workers", type=int, default=1, help="batches decoded at once")
    parser.add_argument("--rounds", type=int, default=2, help="of which the best counts")
    try:
        run(parser.parse_args())
    except ModelUnavailable as error:
        print(f"benchmarks.gpu: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
