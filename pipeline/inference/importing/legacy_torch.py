"""Reads the weights of a whole-module ``.pth`` of PyTorch before 1.6, and runs nothing that stands in it.

Such a file is five pickles (magic number, protocol version, system, the module, the storages' keys) and then the
storages' bytes, each after its length.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.importing.pickled import Machine, Module, RefusedError, Storage, Tensor, as_dict, as_text

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


def read_state(content: bytes, modules: Collection[str]) -> dict[str, NDArray[Any]]:
    """Every parameter and buffer by its dotted name, as its own array.

    modules: the classes that may occur, each as ``module name``. Raises ``RefusedError`` for anything else.
    """
    stream = io.BytesIO(content)
    storages: dict[str, Storage] = {}
    if Machine(stream, (), {}).run() != _MAGIC:
        raise RefusedError("not a PyTorch file of the old format: the magic number is missing")
    if Machine(stream, (), {}).run() != _PROTOCOL:
        raise RefusedError("not a PyTorch file of the old format: another protocol version")
    system = Machine(stream, (), {}).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("written on a machine of another byte order")
    root = Machine(stream, modules, storages).run()
    keys = Machine(stream, (), {}).run()
    if not isinstance(keys, list) or len(keys) != len(storages) or {*map(as_text, keys)} != storages.keys():
        raise RefusedError("the list of storages does not name those that the tensors use")
    data = _read_storages(stream, [storages[key] for key in keys])
    return {name: _array(tensor, data[tensor.storage.key]) for name, tensor in _tensors(root).items()}


def _read_storages(stream: io.BytesIO, storages: list[Storage]) -> dict[str, NDArray[Any]]:
    data = {}
    for storage in storages:
        head = stream.read(8)
        if len(head) != 8 or struct.unpack("<q", head)[0] != storage.count:
            raise RefusedError(f"storage {storage.key!r} breaks off or has another length")
        raw = stream.read(storage.count * storage.dtype.itemsize)
        if len(raw) != storage.count * storage.dtype.itemsize:
            raise RefusedError(f"storage {storage.key!r} breaks off")
        data[storage.key] = np.frombuffer(raw, storage.dtype)
    return data


def _array(tensor: Tensor, data: NDArray[Any]) -> NDArray[Any]:
    """A copy of a tensor's values; refuses a tensor that reaches outside of its storage."""
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) > len(data) or last >= len(data):
        raise RefusedError(f"a tensor of {tensor.shape} reaches outside of its storage of {len(data)}")
    strides = tuple(s * data.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides, writeable=False)
    return view.copy()


def _tensors(root: Any) -> dict[str, Tensor]:
    """Parameters and buffers by dotted name; modules are visited in the order in which they were added."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, Module) or id(module) in seen:
            raise RefusedError(f"{prefix or 'the file'!r} is not a module, or is one that was met before")
        seen.add(id(module))
        for kind in ("_parameters", "_buffers"):
            for name, tensor in as_dict(module.state.get(kind, {})).items():
                if isinstance(tensor, Tensor):
                    found[prefix + name] = tensor
                elif tensor is not None:
                    raise RefusedError(f"{prefix + name!r} is not a tensor")
        children = as_dict(module.state.get("_modules", {})).items()
        waiting.extend((f"{prefix}{name}.", child) for name, child in reversed(children))
    return found
