"""Whisper's encoder in bfloat16, for processors that multiply matrices of it in hardware (AMX: Intel's Xeons from Sapphire
Rapids on). There it takes a third of the time of CTranslate2's in int8 for 30 s of context and two thirds for 10 s; other
processors are slower by it.

The arithmetic is that of Radford et al. 2022: two convolutions, positions, then layers of attention and a network, each
with its norm in front. Products are in bfloat16, sums and norms in float32. The weights are those of CTranslate2's file, so
that a model is one directory whatever runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count, takewhile
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv1d, gelu, layer_norm, linear, scaled_dot_product_attention

Floats = NDArray[np.float32]
Weights = Mapping[str, Tensor]
"""By their names in CTranslate2's file, below `encoder/`."""


def has_amx() -> bool:
    """Whether this processor multiplies matrices of bfloat16 in hardware."""
    return bool(torch.cpu._is_amx_tile_supported())


class Affine(NamedTuple):
    """What a layer multiplies with, and what it adds."""

    weight: Tensor
    bias: Tensor


class Layer(NamedTuple):
    """In the order in which it is gone through. Queries, keys and values are projected as one."""

    attention_norm: Affine
    attention_in: Affine
    attention_out: Affine
    network_norm: Affine
    network_in: Affine
    network_out: Affine


class Encoder:
    """Features in, what the decoder attends to out. Threads may share it; each computes by itself."""

    def __init__(self, weights: Weights, kind: torch.dtype = torch.bfloat16) -> None:
        """Products are computed in `kind`. KeyError where a weight is missing."""
        torch.set_num_threads(1)
        self._kind = kind
        self._heads = int(weights["num_heads"])
        self._convolutions = _product(weights, "conv1", kind), _product(weights, "conv2", kind)
        self._positions = weights["position_encodings/encodings"]
        names = takewhile(lambda name: f"{name}/ffn/linear_0/weight" in weights, map("layer_{}".format, count()))
        self._layers = [_layer(weights, name, kind) for name in names]
        self._norm = _norm(weights, "layer_norm")

    @torch.inference_mode()
    def __call__(self, features: Floats) -> Floats:
        """(clips, mel bands, frames) → (clips, frames // 2, width)."""
        first, second = self._convolutions
        found = gelu(conv1d(torch.from_numpy(features).to(self._kind), *first, padding=1))
        found = gelu(conv1d(found, *second, stride=2, padding=1)).transpose(1, 2)
        sums = found.float().contiguous() + self._positions[: found.shape[1]]
        for layer in self._layers:
            sums += self._attended(self._normed(sums, layer.attention_norm), layer)
            sums += linear(gelu(linear(self._normed(sums, layer.network_norm), *layer.network_in)), *layer.network_out)
        encoded: Floats = layer_norm(sums, sums.shape[-1:], *self._norm).numpy()
        return encoded

    def _normed(self, sums: Tensor, norm: Affine) -> Tensor:
        return layer_norm(sums, sums.shape[-1:], *norm).to(self._kind)

    def _attended(self, found: Tensor, layer: Layer) -> Tensor:
        clips, positions, width = found.shape
        three = linear(found, *layer.attention_in).view(clips, positions, 3, self._heads, width // self._heads)
        queries, keys, values = three.permute(2, 0, 3, 1, 4).unbind()
        heard = scaled_dot_product_attention(queries, keys, values)
        return linear(heard.transpose(1, 2).reshape(clips, positions, width), *layer.attention_out)


def _layer(weights: Weights, name: str, kind: torch.dtype) -> Layer:
    attention, network = f"{name}/self_attention", f"{name}/ffn"
    return Layer(
        _norm(weights, f"{attention}/layer_norm"),
        _product(weights, f"{attention}/linear_0", kind),
        _product(weights, f"{attention}/linear_1", kind),
        _norm(weights, f"{network}/layer_norm"),
        _product(weights, f"{network}/linear_0", kind),
        _product(weights, f"{network}/linear_1", kind),
    )


def _product(weights: Weights, name: str, kind: torch.dtype) -> Affine:
    return Affine(weights[f"{name}/weight"].to(kind), weights[f"{name}/bias"].to(kind))


def _norm(weights: Weights, name: str) -> Affine:
    return Affine(weights[f"{name}/gamma"], weights[f"{name}/beta"])
