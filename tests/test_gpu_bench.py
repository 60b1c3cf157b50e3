"""The benchmark of a GPU, on what has none: a miniature of the model, and the card's arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batching.types import SAMPLE_RATE
from benchmarks.gpu import Card, Measured, measure, sides
from benchmarks.lib.synthetic_weights import SHAPES, FixedLength, Shape, random_weights
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, EngineConfig

MINIATURE = Shape(encoder=1, decoder=1, width=64, heads=2, mels=80, vocabulary=51_865)
TOKENS = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FixedLength:
    directory: Path = tmp_path_factory.mktemp("weights")
    random_weights(MINIATURE, directory)
    return FixedLength(EngineConfig("faster_whisper", str(directory), str(directory), "cpu", "float32", 1, 2), TOKENS)


def test_random_weights_say_as_much_about_every_window_as_they_are_told_to(engine: FixedLength) -> None:
    noise = np.random.default_rng(1).standard_normal((2, 3 * SAMPLE_RATE), np.float32)
    decodes = engine.decode([Clip(audio, DecodeOptions(language="en")) for audio in noise])
    assert engine.has(MINIATURE)
    assert not engine.has(SHAPES["turbo"])
    # Some of them may be timestamps, which are no text; the engine itself raises if their number is another.
    assert all(0 < decode.tokens <= TOKENS for decode in decodes)


def test_all_sides_decode_every_window(engine: FixedLength) -> None:
    measured = measure(engine, MINIATURE, Card(1e9, 1e9), batch=2, windows=2, rounds=1)
    assert set(measured.speeds) == set(sides(engine, 2))
    assert min(measured.speeds.values()) > 0


def test_the_longest_part_is_what_limits() -> None:
    decoder = Measured(8, {"ours": 1.0}, (0.1, 0.3, 0.6), (0.1, 0.3), 0)
    features = Measured(8, {"ours": 1.0}, (0.4, 0.2, 0.2), (0.1, 0.1), 0)
    assert decoder.verdict() == "Limit: decoder bandwidth (60% of the time in batches of 8, at 50% of what the card can do)."
    assert features.verdict() == "Limit: features (50% of the time in batches of 8)."
