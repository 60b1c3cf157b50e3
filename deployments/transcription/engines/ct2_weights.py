"""Weights read from a `model.bin` of CTranslate2, for what computes with them in its stead.

The layout is that of `ctranslate2.specs.model_spec.ModelSpec`, version 6: a head, variables one after another (name,
dimensions, type, bytes), then names that stand for the variables of other names.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

VERSION = 6
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
SCALE = "_scale"
"""Ends the name of what a weight in int8 was multiplied with, row by row."""


def read_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """The variables whose names begin with `prefix`, without it, as float32 (whole numbers that are no weights as they are).
    ValueError where the file is of another version."""
    stored = _stored(path)
    wanted = {name.removeprefix(prefix): variable for name, variable in stored.items() if name.startswith(prefix)}
    return {
        name: _plain(variable, wanted.get(name + SCALE)) for name, variable in wanted.items() if not name.endswith(SCALE)
    }


class _Variable(NamedTuple):
    """Where it lies in the file, which is mapped and not read before it is asked for."""

    data: Tensor
    kind: torch.dtype
    shape: list[int]

    def tensor(self) -> Tensor:
        return self.data.clone().view(self.kind).reshape(self.shape)


class _Reader:
    """Goes through a file."""

    def __init__(self, path: Path) -> None:
        self._data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        self._at = 0

    def take(self, size: int) -> Tensor:
        """The next bytes."""
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, kind: str) -> int:
        """The next number, of a kind that `struct` knows."""
        layout = struct.Struct(f"<{kind}")
        return int(layout.unpack(self.take(layout.size).numpy().tobytes())[0])

    def name(self) -> str:
        """The next name; a zero ends it."""
        return self.take(self.number("H")).numpy().tobytes()[:-1].decode()

    def variable(self) -> _Variable:
        """The next variable."""
        shape = [self.number("I") for _ in range(self.number("B"))]
        kind = TYPES[self.number("B")]
        return _Variable(self.take(self.number("I")), kind, shape)


def _stored(path: Path) -> dict[str, _Variable]:
    reader = _Reader(path)
    if (version := reader.number("I")) != VERSION:
        raise ValueError(f"{path.name} is of version {version} of CTranslate2's models, not {VERSION}")
    reader.name()
    reader.number("I")
    stored = {reader.name(): reader.variable() for _ in range(reader.number("I"))}
    for _ in range(reader.number("I")):
        name = reader.name()
        stored[name] = stored[reader.name()]
    return stored


def _plain(variable: _Variable, scale: _Variable | None) -> Tensor:
    tensor = variable.tensor()
    if scale is None:
        return tensor.float() if tensor.is_floating_point() else tensor
    return tensor.float() / scale.tensor().float().reshape(-1, *[1] * (tensor.dim() - 1))
