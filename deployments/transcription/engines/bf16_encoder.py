"""Whisper's encoder in bfloat16 on a CPU, with the weights of CTranslate2's model file."""

# For processors with AMX (Intel Xeon from Sapphire Rapids on): it takes a third of the time of CTranslate2's int8 encoder
# for 30 s of context, two thirds for 10 s. Without AMX it is slower than that.
#
# Architecture of Radford et al. 2022: two convolutions, position encodings, then pre-norm layers of attention and a
# feed-forward network. Matrix products are in bfloat16; sums and norms in float32.

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
Weights = Mapping[str, Tensor]  # by name in CTranslate2's file, without the prefix `encoder/`


def has_amx() -> bool:
    """Whether the CPU has matrix instructions for bfloat16."""
    return bool(torch.cpu._is_amx_tile_supported())


class Affine(NamedTuple):
    weight: Tensor
    bias: Tensor


class Layer(NamedTuple):
    """Weights of a layer, in order."""

    attention_norm: Affine
    attention_in: Affine  # queries, keys and values as one product
    attention_out: Affine
    network_norm: Affine
    network_in: Affine
    network_out: Affine


class Encoder:
    """Thread-safe; each call computes on one thread."""

    def __init__(self, weights: Weights, dtype: torch.dtype = torch.bfloat16) -> None:
        """Raise KeyError if a weight is missing."""
        torch.set_num_threads(1)
        self._dtype = dtype
        self._heads = int(weights["num_heads"])
        self._convolutions = _product(weights, "conv1", dtype), _product(weights, "conv2", dtype)
        self._positions = weights["position_encodings/encodings"]
        names = takewhile(lambda name: f"{name}/ffn/linear_0/weight" in weights, map("layer_{}".format, count()))
        self._layers = [_layer(weights, name, dtype) for name in names]
        self._norm = _norm(weights, "layer_norm")

    @torch.inference_mode()
    def __call__(self, features: Floats) -> Floats:
        """Features (clips, mel bands, frames) → hidden states (clips, frames // 2, width)."""
        first, second = self._convolutions
        x = gelu(conv1d(torch.from_numpy(features).to(self._dtype), *first, padding=1))
        x = gelu(conv1d(x, *second, stride=2, padding=1)).transpose(1, 2)
        residual = x.float().contiguous() + self._positions[: x.shape[1]]
        for layer in self._layers:
            residual += self._attend(self._normalise(residual, layer.attention_norm), layer)
            x = self._normalise(residual, layer.network_norm)
            residual += linear(gelu(linear(x, *layer.network_in)), *layer.network_out)
        hidden: Floats = layer_norm(residual, residual.shape[-1:], *self._norm).numpy()
        return hidden

    def _normalise(self, residual: Tensor, norm: Affine) -> Tensor:
        return layer_norm(residual, residual.shape[-1:], *norm).to(self._dtype)

    def _attend(self, x: Tensor, layer: Layer) -> Tensor:
        clips, positions, width = x.shape
        qkv = linear(x, *layer.attention_in).view(clips, positions, 3, self._heads, width // self._heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind()
        attended = scaled_dot_product_attention(queries, keys, values)
        return linear(attended.transpose(1, 2).reshape(clips, positions, width), *layer.attention_out)


def _layer(weights: Weights, name: str, dtype: torch.dtype) -> Layer:
    attention, network = f"{name}/self_attention", f"{name}/ffn"
    return Layer(
        _norm(weights, f"{attention}/layer_norm"),
        _product(weights, f"{attention}/linear_0", dtype),
        _product(weights, f"{attention}/linear_1", dtype),
        _norm(weights, f"{network}/layer_norm"),
        _product(weights, f"{network}/linear_0", dtype),
        _product(weights, f"{network}/linear_1", dtype),
    )


def _product(weights: Weights, name: str, dtype: torch.dtype) -> Affine:
    return Affine(weights[f"{name}/weight"].to(dtype), weights[f"{name}/bias"].to(dtype))


def _norm(weights: Weights, name: str) -> Affine:
    return Affine(weights[f"{name}/gamma"], weights[f"{name}/beta"])
