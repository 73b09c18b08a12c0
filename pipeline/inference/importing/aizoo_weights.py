"""The weights of AIZOO's original files, by the names that the convolutions have in the network's graph."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.graph import Conv
from pipeline.inference.importing.aizoo import State, array, fold, without_dust
from pipeline.inference.importing.pickled import RefusedError

Weights = Callable[[Conv], tuple[NDArray[np.float32], NDArray[np.float32]]]

_LIST_MAGIC, _ARRAY_MAGIC, _FLOAT32 = 0x112, 0xF993FAC9, 0
_DIMENSIONS_MAX, _NAME_BYTES_MAX, _ARRAYS_MAX = 8, 200, 10_000
_GRAPH_NAMES = (
    (re.compile(r"^conv_(\d)\.(?:1\.)?"), r"conv2d_\1."),
    (re.compile(r"^(loc|cls)_(\d)_conv\.0\."), r"\1_\2_insert_conv2d."),
    (re.compile(r"^(loc|cls)_(\d)_conv\.1\."), r"\1_\2_conv."),
)


def of_state(state: State) -> Weights:
    """Weights of a PyTorch state: ``<name>.weight`` and ``.bias``, or with a batch normalisation ``<name>_bn``."""

    def weights(conv: Conv) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if f"{conv.name}_bn.weight" in state:
            made, taken = conv.weight.shape[:2]
            return fold(state, conv.name, (made, taken))
        weight = array(state, f"{conv.name}.weight", conv.weight.shape)
        bias = array(state, f"{conv.name}.bias", conv.bias.shape)
        return without_dust(weight.astype(np.float64)), without_dust(bias.astype(np.float64))

    return weights


def of_params(content: bytes) -> Weights:
    """Weights of an MXNet ``.params``; raises ``RefusedError`` for a file that is none."""
    return of_state({_graph_name(name): values for name, values in read_params(content).items()})


def _graph_name(name: str) -> str:
    """MXNet counts what stands in a block (pooling, convolution; inserted convolution, the branch's own)."""
    for pattern, replacement in _GRAPH_NAMES:
        name = pattern.sub(replacement, name)
    return name


def read_params(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an MXNet ``.params`` (a list of dense float32 arrays on the processor, and their names)."""
    reader = _Reader(content)
    if reader.numbers("<QQ") != (_LIST_MAGIC, 0):
        raise RefusedError("not an MXNet file of arrays: the magic number is missing")
    arrays = [_array(reader) for _ in range(reader.count(_ARRAYS_MAX))]
    if reader.count(_ARRAYS_MAX) != len(arrays):
        raise RefusedError("it has another number of names than of arrays")
    names = [reader.take(reader.count(_NAME_BYTES_MAX)).decode("utf-8", "replace") for _ in arrays]
    if len(set(names)) != len(names) or not reader.ended:
        raise RefusedError("its names are not what its arrays need")
    return dict(zip(names, arrays, strict=True))


def _array(reader: _Reader) -> NDArray[Any]:
    magic, storage, dimensions = reader.numbers("<IiI")
    if magic != _ARRAY_MAGIC or storage != 0 or not 1 <= dimensions <= _DIMENSIONS_MAX:
        raise RefusedError("an array is not dense")
    shape = reader.numbers(f"<{dimensions}q")
    _device, _number, kind = reader.numbers("<iii")
    if kind != _FLOAT32 or not all(0 < n < len(reader.content) for n in shape):
        raise RefusedError(f"an array of {shape} is not float32 or not possible")
    count = 1
    for n in shape:
        count *= n
    return np.frombuffer(reader.take(4 * count), "<f4").astype(np.float32).reshape(shape)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self._at = 0

    @property
    def ended(self) -> bool:
        return self._at == len(self.content)

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self._at:
            raise RefusedError("it breaks off")
        self._at += count
        return self.content[self._at - count : self._at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def count(self, most: int) -> int:
        [number] = self.numbers("<Q")
        if number > most:
            raise RefusedError(f"a length of {number} is more than {most}")
        return number
