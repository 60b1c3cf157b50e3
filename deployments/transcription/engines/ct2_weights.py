"""Reader of CTranslate2's `model.bin`."""

# The layout is that of `ctranslate2.specs.model_spec.ModelSpec`, version 6: a header, variables one after another (name,
# dimensions, type, bytes), then aliases.

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

VERSION = 6
TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
SCALE = "_scale"  # suffix of the variable that holds the row scales of an int8 weight


def read_weights(path: Path, prefix: str) -> dict[str, Tensor]:
    """Variables below a prefix: weights as float32, integers unchanged. Raises ValueError for other layout versions."""
    selected = {n.removeprefix(prefix): variable for n, variable in _variables(path).items() if n.startswith(prefix)}
    return {
        name: _dequantise(variable, selected.get(name + SCALE))
        for name, variable in selected.items()
        if not name.endswith(SCALE)
    }


class _Variable(NamedTuple):
    data: Tensor  # bytes of the memory-mapped file
    dtype: torch.dtype
    shape: list[int]

    def tensor(self) -> Tensor:
        return self.data.clone().view(self.dtype).reshape(self.shape)


class _Reader:
    def __init__(self, path: Path) -> None:
        self._data = torch.from_file(str(path), shared=False, size=path.stat().st_size, dtype=torch.uint8)
        self._position = 0

    def take(self, size: int) -> Tensor:
        self._position += size
        return self._data[self._position - size : self._position]

    def integer(self, code: str) -> int:
        """Integer in a format of `struct`."""
        layout = struct.Struct(f"<{code}")
        return int(layout.unpack(self.take(layout.size).numpy().tobytes())[0])

    def name(self) -> str:
        return self.take(self.integer("H")).numpy().tobytes()[:-1].decode()  # without the final zero

    def variable(self) -> _Variable:
        shape = [self.integer("I") for _ in range(self.integer("B"))]
        dtype = TYPES[self.integer("B")]
        return _Variable(self.take(self.integer("I")), dtype, shape)


def _variables(path: Path) -> dict[str, _Variable]:
    reader = _Reader(path)
    if (version := reader.integer("I")) != VERSION:
        raise ValueError(f"{path.name} is of version {version} of CTranslate2's models, not {VERSION}")
    reader.name()  # of the specification
    reader.integer("I")  # its revision
    variables = {reader.name(): reader.variable() for _ in range(reader.integer("I"))}
    for _ in range(reader.integer("I")):
        alias = reader.name()
        variables[alias] = variables[reader.name()]
    return variables


def _dequantise(variable: _Variable, scale: _Variable | None) -> Tensor:
    tensor = variable.tensor()
    if scale is None:
        return tensor.float() if tensor.is_floating_point() else tensor
    return tensor.float() / scale.tensor().float().reshape(-1, *[1] * (tensor.dim() - 1))
