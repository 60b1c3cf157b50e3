"""GPU benchmark on a CPU, with a miniature model; verdict on the bottleneck."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from batching.types import SAMPLE_RATE
from benchmarks.gpu import Card, Measurement, measure, sides
from benchmarks.lib.synthetic_weights import SHAPES, FixedLengthEngine, Shape, random_weights
from deployments.messages import DecodeOptions
from deployments.transcription.engines.base import Clip, EngineConfig

MINIATURE = Shape(encoder=1, decoder=1, width=64, heads=2, mels=80, vocabulary=51_865)
TOKENS = 5


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> FixedLengthEngine:
    directory: Path = tmp_path_factory.mktemp("weights")
    random_weights(MINIATURE, directory)
    return FixedLengthEngine(EngineConfig("faster_whisper", str(directory), str(directory), "cpu", "float32", 1, 2), TOKENS)


def test_random_weights_decode_a_fixed_number_of_tokens(engine: FixedLengthEngine) -> None:
    noise = np.random.default_rng(1).standard_normal((2, 3 * SAMPLE_RATE), np.float32)
    decodes = engine.decode([Clip(audio, DecodeOptions(language="en")) for audio in noise])
    assert engine.matches(MINIATURE)
    assert not engine.matches(SHAPES["turbo"])
    # Timestamps among them are no text; the engine raises if their number differs.
    assert all(0 < decode.tokens <= TOKENS for decode in decodes)


def test_all_sides_decode_every_window(engine: FixedLengthEngine) -> None:
    measurement = measure(engine, MINIATURE, Card(1e9, 1e9), batch=2, windows=2, rounds=1)
    assert set(measurement.speeds) == set(sides(engine, 2))
    assert min(measurement.speeds.values()) > 0


def test_the_slowest_stage_is_the_bottleneck() -> None:
    decoder = Measurement(8, {"ours": 1.0}, (0.1, 0.3, 0.6), (0.1, 0.3), 0)
    features = Measurement(8, {"ours": 1.0}, (0.4, 0.2, 0.2), (0.1, 0.1), 0)
    share = "60% of the time in batches of 8, at 50% of the card's rate"
    assert decoder.bottleneck() == f"Bottleneck: decoder bandwidth ({share})."
    assert features.bottleneck() == "Bottleneck: features (50% of the time in batches of 8)."
