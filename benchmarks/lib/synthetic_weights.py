"""Whisper models of the published shapes with random weights, and an engine that decodes a fixed number of tokens."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from ctranslate2.specs import WhisperSpec
from faster_whisper import BatchedInferencePipeline
from faster_whisper.tokenizer import _LANGUAGE_CODES
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from batching.types import SAMPLE_RATE
from deployments.transcription.engines.base import Clip, EngineConfig
from deployments.transcription.engines.faster_whisper import FasterWhisper
from deployments.transcription.engines.mel import FRAMES

Result = TypeVar("Result")
POSITIONS, TEXT_POSITIONS = 1500, 448  # of the encoder's context (30 s), and of the decoder's
END = 50_257  # end of text, the first token that is no text
TIMES = 1501  # timestamp tokens
# Standard deviation of text logits, and of all other weights. The wide one puts the likeliest text token above all
# timestamps, as in a trained model: otherwise only timestamps would be decoded.
SPREAD, NARROW = 3.0, 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of a Whisper model."""

    encoder: int  # layers
    decoder: int  # layers
    width: int
    heads: int
    mels: int
    vocabulary: int

    def encoder_flops(self) -> float:
        """Floating point operations of one window."""
        # Two convolutions; per layer the projections (12 width² per position) and self-attention.
        convolutions = 2 * 3 * self.width * (2 * POSITIONS * self.mels + POSITIONS * self.width)
        layer = 2 * 12 * POSITIONS * self.width**2 + 4 * POSITIONS**2 * self.width
        return float(convolutions + self.encoder * layer)

    def cross_attention_flops(self) -> float:
        """Floating point operations of cross-attention keys and values of one window."""
        return float(self.decoder * 2 * 2 * POSITIONS * self.width**2)

    def step_bytes(self, batch: int, tokens: int, bytes_each: int) -> float:
        """Bytes that the decoder reads for one token of each window."""
        # Weights once (14 width² per layer, the vocabulary); per window the keys and values of the encoder's output and of
        # the text so far, on average half of it.
        weights = 14 * self.decoder * self.width**2 + self.vocabulary * self.width
        key_values = 2 * self.decoder * self.width * (POSITIONS + tokens / 2)
        return float(bytes_each * (weights + batch * key_values))


SHAPES = {
    "large-v3": Shape(32, 32, 1280, 20, 128, 51_866),
    "turbo": Shape(32, 4, 1280, 20, 128, 51_866),
    "base": Shape(6, 6, 512, 8, 80, 51_865),
    "tiny": Shape(4, 4, 384, 6, 80, 51_865),
}


# Layers have arrays of their own in the file, so that caches help no more than with trained weights. Arrays of a size have
# equal values, on which no time depends.
class _RandomArrays:
    """Arrays of float16, one per size."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._arrays: dict[tuple[int, ...], NDArray[np.float16]] = {}

    def __call__(self, *size: int) -> NDArray[np.float16]:
        if size not in self._arrays:
            self._arrays[size] = self.draw(NARROW, *size)
        return self._arrays[size]

    def draw(self, deviation: float, *size: int) -> NDArray[np.float16]:
        return (self._random.standard_normal(size, np.float32) * np.float32(deviation)).astype(np.float16)


def random_weights(shape: Shape, directory: Path) -> Path:
    """Write a model of `shape` that faster-whisper loads offline."""
    tokens = _tokens(shape.vocabulary)
    spec = _spec(shape, _RandomArrays())
    spec.register_vocabulary(tokens)
    spec.config.suppress_ids = list(range(END + 1, len(tokens) - TIMES))
    spec.config.suppress_ids_begin = [END]
    spec.config.lang_ids = list(range(END + 2, END + 2 + _languages(shape.vocabulary)))
    spec.config.alignment_heads = list(product(range(shape.decoder // 2, shape.decoder), range(shape.heads)))
    spec.validate()
    spec.decoder.projection.weight = "decoder/embeddings/weight"  # one array for both, as in trained models
    spec.save(str(directory))
    _tokenizer(tokens[:-TIMES]).save(str(directory / "tokenizer.json"))
    (directory / "preprocessor_config.json").write_text(json.dumps({"feature_size": shape.mels}), encoding="utf-8")
    return directory


def _spec(shape: Shape, values: _RandomArrays) -> Any:
    spec: Any = WhisperSpec(shape.encoder, shape.heads, shape.decoder, shape.heads)
    width = shape.width
    for convolution, bands in ((spec.encoder.conv1, shape.mels), (spec.encoder.conv2, width)):
        convolution.weight, convolution.bias = values(width, bands, 3), values(width)
    spec.encoder.position_encodings.encodings = values(POSITIONS, width)
    spec.decoder.position_encodings.encodings = values(TEXT_POSITIONS, width)
    embeddings = values.draw(SPREAD / math.sqrt(width), shape.vocabulary, width)
    embeddings[END:] = 0
    spec.decoder.embeddings.weight = spec.decoder.projection.weight = embeddings
    for stack in (spec.encoder, spec.decoder):
        _norm(stack.layer_norm, width)
        for layer in stack.layer:
            _attention(layer.self_attention, values, width, 3)
            _norm(layer.ffn.layer_norm, width)
            _linear(layer.ffn.linear_0, values, 4 * width, width)
            _linear(layer.ffn.linear_1, values, width, 4 * width)
    for layer in spec.decoder.layer:
        _attention(layer.attention, values, width, 1, 2)
    return spec


# Projections are 3 (fused queries, keys and values) or 1, 2 (queries; keys and values); the output projection follows.
def _attention(spec: Any, values: _RandomArrays, width: int, *projections: int) -> None:
    _norm(spec.layer_norm, width)
    for linear, times in zip(spec.linear, (*projections, 1), strict=True):
        _linear(linear, values, times * width, width)


def _linear(spec: Any, values: _RandomArrays, outputs: int, inputs: int) -> None:
    spec.weight, spec.bias = values(outputs, inputs), values(outputs)


def _norm(spec: Any, width: int) -> None:
    spec.gamma, spec.beta = np.ones(width, np.float16), np.zeros(width, np.float16)


def _languages(vocabulary: int) -> int:
    return vocabulary - TIMES - END - 8


def _tokens(vocabulary: int) -> list[str]:
    # CTranslate2 recognises a multilingual model by the empty text's token.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*(f"Ġw{number}" for number in range(END - len(letters) - 1)), ""]
    languages = [f"<|{code}|>" for code in _LANGUAGE_CODES[: _languages(vocabulary)]]
    after = ("translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps")
    control = ["<|endoftext|>", "<|startoftranscript|>", *languages, *(f"<|{name}|>" for name in after)]
    return [*letters, *words, *control, *(f"<|{number * 0.02:.2f}|>" for number in range(TIMES))]


def _tokenizer(tokens: list[str]) -> Any:
    # Byte-level without merges: encodes byte by byte, decodes any token.
    tokenizer: Any = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens[:END])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[END:])
    return tokenizer


class FixedLengthModel:
    """CTranslate2 model that generates exactly `tokens` tokens per text."""

    def __init__(self, model: Any, end: int, tokens: int) -> None:
        self._model, self._end, self._tokens = model, end, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, encoded: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """Generate with the end of text suppressed. Raises ValueError."""
        options["suppress_tokens"] = [*options["suppress_tokens"], self._end]
        # CTranslate2 limits the text to half of this, or to what the prompt leaves of it.
        options["max_length"] = max(2 * self._tokens, max(map(len, prompts)) + self._tokens)
        results: list[Any] = self._model.generate(encoded, prompts, **options)
        if any(len(result.sequences_ids[0]) != self._tokens for result in results):
            raise ValueError(f"a text does not have {self._tokens} tokens")
        return results


class FixedLengthEngine(FasterWhisper):
    """Engine that decodes `tokens` tokens per clip, without fallback, search or alignment."""

    def __init__(self, config: EngineConfig, tokens: int) -> None:
        super().__init__(config)
        self.tokens = tokens
        self._model.model = FixedLengthModel(
            self._model.model, self._model.hf_tokenizer.token_to_id("<|endoftext|>"), tokens
        )
        self.reference: Any = BatchedInferencePipeline(self._model)

    def _token_limit(self, clips: Sequence[Clip]) -> int:  # noqa: ARG002
        return self.tokens

    def _beam_search(self, *_: object) -> None: ...

    def _align(self, *_: object) -> None: ...

    def matches(self, shape: Shape) -> bool:
        """Whether mel bands and width are those of a shape."""
        encoded = self._encode(self._features([np.zeros(SAMPLE_RATE, np.float32)], FRAMES))
        return (self._model.model.n_mels, encoded.shape[2]) == (shape.mels, shape.width)

    def stage_times_s(self, clips: Sequence[Clip]) -> tuple[float, float, float]:
        """Seconds of features, encoder and decoder of a batch."""
        mel, features_s = timed(lambda: self._features([clip.audio for clip in clips], FRAMES), self.info.device)
        encoded, encoder_s = timed(lambda: self._encode(mel), self.info.device)
        tokenizers = [self._tokenizer("transcribe", "en")] * len(clips)
        _, decoder_s = timed(lambda: self._generate(clips, encoded, tokenizers, self.tokens), self.info.device)
        return features_s, encoder_s, decoder_s


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """Run; the result, and the seconds until the device is idle."""
    _synchronize(device)
    began = time.perf_counter()
    result = run()
    _synchronize(device)
    return result, time.perf_counter() - began


def _synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
