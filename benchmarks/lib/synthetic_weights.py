"""Whisper models of the published shapes with random weights, made on the spot, and the engine that bears with them: what
they say is nonsense, what they cost is not. Layers have arrays of their own in the file, so that none is nearer to the
processor than a trained one's would be; the values in them are the same, which no time depends on.

Text is made likelier than times and the end, which a trained model does as well: else it would tell times only.
"""

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
POSITIONS, TEXT_POSITIONS = 1500, 448
"""Of the encoder's context (30 s), and of the decoder's."""
END = 50_257
"""The end of the text, and the first token that is no text."""
TIMES = 1501
SPREAD, NARROW = 3.0, 0.02
"""Standard deviation of the logits of text, which puts its likeliest token above all times; and of other weights."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers of the encoder and the decoder, their width and heads, mel bands, and tokens of the vocabulary."""

    encoder: int
    decoder: int
    width: int
    heads: int
    mels: int
    vocabulary: int

    def encoder_flops(self) -> float:
        """Floating point operations for one window: two convolutions, and in each layer the projections (12 width² a
        position) and the attention of every position to every other."""
        convolutions = 2 * 3 * self.width * (2 * POSITIONS * self.mels + POSITIONS * self.width)
        layer = 2 * 12 * POSITIONS * self.width**2 + 4 * POSITIONS**2 * self.width
        return float(convolutions + self.encoder * layer)

    def crossing_flops(self) -> float:
        """What the decoder does once for a window, before its first token: keys and values of what was encoded."""
        return float(self.decoder * 2 * 2 * POSITIONS * self.width**2)

    def step_bytes(self, batch: int, tokens: int, bytes_each: int) -> float:
        """Bytes that the decoder reads for one token of each window: its weights once (14 width² a layer, the vocabulary),
        and for every window keys and values of what was encoded and of the text so far (on average half of it)."""
        weights = 14 * self.decoder * self.width**2 + self.vocabulary * self.width
        remembered = 2 * self.decoder * self.width * (POSITIONS + tokens / 2)
        return float(bytes_each * (weights + batch * remembered))


SHAPES = {
    "large-v3": Shape(32, 32, 1280, 20, 128, 51_866),
    "turbo": Shape(32, 4, 1280, 20, 128, 51_866),
    "base": Shape(6, 6, 512, 8, 80, 51_865),
    "tiny": Shape(4, 4, 384, 6, 80, 51_865),
}


class _Values:
    """Arrays of float16, one for each size asked for."""

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self._made: dict[tuple[int, ...], NDArray[np.float16]] = {}

    def __call__(self, *size: int) -> NDArray[np.float16]:
        if size not in self._made:
            self._made[size] = self.drawn(NARROW, *size)
        return self._made[size]

    def drawn(self, deviation: float, *size: int) -> NDArray[np.float16]:
        """New values."""
        return (self._random.standard_normal(size, np.float32) * np.float32(deviation)).astype(np.float16)


def random_weights(shape: Shape, directory: Path) -> Path:
    """Write a model of `shape` that faster-whisper loads without a network."""
    tokens = _tokens(shape.vocabulary)
    spec = _spec(shape, _Values())
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


def _spec(shape: Shape, values: _Values) -> Any:
    spec: Any = WhisperSpec(shape.encoder, shape.heads, shape.decoder, shape.heads)
    width = shape.width
    for convolution, bands in ((spec.encoder.conv1, shape.mels), (spec.encoder.conv2, width)):
        convolution.weight, convolution.bias = values(width, bands, 3), values(width)
    spec.encoder.position_encodings.encodings = values(POSITIONS, width)
    spec.decoder.position_encodings.encodings = values(TEXT_POSITIONS, width)
    embeddings = values.drawn(SPREAD / math.sqrt(width), shape.vocabulary, width)
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


def _attention(spec: Any, values: _Values, width: int, *projections: int) -> None:
    """Queries, keys and values are projected as one, or the queries alone and then keys and values; last the output is."""
    _norm(spec.layer_norm, width)
    for linear, times in zip(spec.linear, (*projections, 1), strict=True):
        _linear(linear, values, times * width, width)


def _linear(spec: Any, values: _Values, outputs: int, inputs: int) -> None:
    spec.weight, spec.bias = values(outputs, inputs), values(outputs)


def _norm(spec: Any, width: int) -> None:
    spec.gamma, spec.beta = np.ones(width, np.float16), np.zeros(width, np.float16)


def _languages(vocabulary: int) -> int:
    return vocabulary - TIMES - END - 8


def _tokens(vocabulary: int) -> list[str]:
    """All tokens in order: bytes, made-up words, the empty text (by which CTranslate2 tells a model of many languages), what
    steers the decoder, times."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*(f"Ġw{number}" for number in range(END - len(letters) - 1)), ""]
    languages = [f"<|{code}|>" for code in _LANGUAGE_CODES[: _languages(vocabulary)]]
    after = ("translate", "transcribe", "startoflm", "startofprev", "nocaptions", "notimestamps")
    steering = ["<|endoftext|>", "<|startoftranscript|>", *languages, *(f"<|{name}|>" for name in after)]
    return [*letters, *words, *steering, *(f"<|{number * 0.02:.2f}|>" for number in range(TIMES))]


def _tokenizer(tokens: list[str]) -> Any:
    """Byte-level, without merges: it writes text letter by letter, and reads any token."""
    tokenizer: Any = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens[:END])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(tokens[END:])
    return tokenizer


class Endless:
    """A CTranslate2 model whose texts have `tokens` tokens each; ValueError where one has not."""

    def __init__(self, model: Any, end: int, tokens: int) -> None:
        self._model, self._end, self._tokens = model, end, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def generate(self, encoded: Any, prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """As the model's, but for when to stop."""
        options["suppress_tokens"] = [*options["suppress_tokens"], self._end]
        # CTranslate2 leaves the text half of this, or what the prompt does not take of it.
        options["max_length"] = max(2 * self._tokens, max(map(len, prompts)) + self._tokens)
        results: list[Any] = self._model.generate(encoded, prompts, **options)
        if any(len(result.sequences_ids[0]) != self._tokens for result in results):
            raise ValueError(f"a text has not the {self._tokens} tokens that were asked for")
        return results


class FixedLength(FasterWhisper):
    """The engine, made to say `tokens` tokens about every clip and to leave it at that."""

    def __init__(self, config: EngineConfig, tokens: int) -> None:
        super().__init__(config)
        self.tokens = tokens
        self._model.model = Endless(self._model.model, self._model.hf_tokenizer.token_to_id("<|endoftext|>"), tokens)
        self.reference: Any = BatchedInferencePipeline(self._model)

    def _token_limit(self, clips: Sequence[Clip]) -> int:  # noqa: ARG002
        return self.tokens

    def _beam_search(self, *_: object) -> None: ...

    def _align(self, *_: object) -> None: ...

    def has(self, shape: Shape) -> bool:
        """Whether the model may be of that shape; how many layers it has cannot be asked."""
        encoded = self._encode(self._features([np.zeros(SAMPLE_RATE, np.float32)], FRAMES))
        return (self._model.model.n_mels, encoded.shape[2]) == (shape.mels, shape.width)

    def parts(self, clips: Sequence[Clip]) -> tuple[float, float, float]:
        """Seconds for the features, the encoder and the decoder of a batch, one after another."""
        mel, features_s = timed(lambda: self._features([clip.audio for clip in clips], FRAMES), self.info.device)
        encoded, encoder_s = timed(lambda: self._encode(mel), self.info.device)
        tokenizers = [self._tokenizer("transcribe", "en")] * len(clips)
        _, decoder_s = timed(lambda: self._generate(clips, encoded, tokenizers, self.tokens), self.info.device)
        return features_s, encoder_s, decoder_s


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """What it gives, and the seconds until the device has nothing left to do."""
    _finish(device)
    began = time.perf_counter()
    result = run()
    _finish(device)
    return result, time.perf_counter() - began


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
