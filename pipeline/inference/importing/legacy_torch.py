"""Reads the weights of a whole-module ``.pth`` of PyTorch before 1.6, and runs nothing that stands in it.

Such a file is five pickles (magic number, protocol version, system, the module, the storages' keys) and then the
storages' bytes. A pickle is a program for a stack machine that may call any function. It is never given to ``pickle``
here: ``pickletools`` splits it into instructions, and the small machine below knows only those that data needs. A
name stands for itself, and "calling" one of the few names that are known gives an inert description.
"""

from __future__ import annotations

import io
import math
import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_INSTRUCTIONS_MAX = 500_000
_DIMENSIONS_MAX = 8
_COUNT_MAX = 1 << 31

_DTYPES: dict[str, np.dtype[Any]] = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"


class RefusedError(ValueError):
    """The file is damaged, or holds something that weights do not need."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A global: ``module name``, as the pickle writes it. It is never looked up."""

    text: str


@dataclass(slots=True, eq=False)
class _Module:
    """An object of a module's class: what it was given as state."""

    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_state(content: bytes, modules: Collection[str]) -> dict[str, NDArray[Any]]:
    """Every parameter and buffer by its dotted name, as its own array.

    modules: the classes that may occur, each as ``module name``. Raises ``RefusedError`` for anything else.
    """
    stream = io.BytesIO(content)
    storages: dict[str, _Storage] = {}
    if _Machine(stream, (), {}).run() != _MAGIC:
        raise RefusedError("not a PyTorch file of the old format: the magic number is missing")
    if _Machine(stream, (), {}).run() != _PROTOCOL:
        raise RefusedError("not a PyTorch file of the old format: another protocol version")
    system = _Machine(stream, (), {}).run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("written on a machine of another byte order")
    root = _Machine(stream, modules, storages).run()
    keys = _Machine(stream, (), {}).run()
    if not isinstance(keys, list) or len(keys) != len(storages) or {*map(_text, keys)} != storages.keys():
        raise RefusedError("the list of storages does not name those that the tensors use")
    data = _read_storages(stream, [storages[key] for key in keys])
    return {name: _array(tensor, data[tensor.storage.key]) for name, tensor in _tensors(root).items()}


def _read_storages(stream: io.BytesIO, storages: list[_Storage]) -> dict[str, NDArray[Any]]:
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


def _array(tensor: _Tensor, data: NDArray[Any]) -> NDArray[Any]:
    """A copy of a tensor's values; refuses a tensor that reaches outside of its storage."""
    last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if math.prod(tensor.shape) > len(data) or last >= len(data):
        raise RefusedError(f"a tensor of {tensor.shape} reaches outside of its storage of {len(data)}")
    strides = tuple(s * data.itemsize for s in tensor.strides)
    view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, strides, writeable=False)
    return view.copy()


def _tensors(root: Any) -> dict[str, _Tensor]:
    """Parameters and buffers by dotted name; modules are visited in the order in which they were added."""
    found: dict[str, _Tensor] = {}
    seen: set[int] = set()
    waiting: list[tuple[str, Any]] = [("", root)]
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, _Module) or id(module) in seen:
            raise RefusedError(f"{prefix or 'the file'!r} is not a module, or is one that was met before")
        seen.add(id(module))
        for kind in ("_parameters", "_buffers"):
            for name, tensor in _dict(module.state.get(kind, {})).items():
                if isinstance(tensor, _Tensor):
                    found[prefix + name] = tensor
                elif tensor is not None:
                    raise RefusedError(f"{prefix + name!r} is not a tensor")
        children = _dict(module.state.get("_modules", {})).items()
        waiting.extend((f"{prefix}{name}.", child) for name, child in reversed(children))
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedError("a text is missing")
    return value


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError("a dictionary is missing")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _DIMENSIONS_MAX or not all(_is_count(n) for n in value):
        raise RefusedError("a tensor's shape or strides are not counts")
    return value


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _COUNT_MAX


class _Machine:
    """Runs one pickle as far as it is data."""

    def __init__(self, stream: io.BytesIO, modules: Collection[str], storages: dict[str, _Storage]) -> None:
        self._stream = stream
        self._modules = modules
        self._storages = storages
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._operations: dict[str, Callable[[Any], None]] = {
            "MARK": self._mark,
            "TUPLE": self._tuple,
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "BINGET": self._get,
            "LONG_BINGET": self._get,
            "SETITEMS": self._set_items,
            "SETITEM": self._set_item,
            "APPENDS": self._append_items,
            "GLOBAL": self._global,
            "BINPERSID": self._persistent,
            "NEWOBJ": self._new,
            "REDUCE": self._call,
            "BUILD": self._build,
        }

    def run(self) -> Any:
        """What the pickle describes; the stream then stands behind it."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(self._stream)):
                if count >= _INSTRUCTIONS_MAX:
                    raise RefusedError(f"more than {_INSTRUCTIONS_MAX} instructions")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        except RefusedError:
            raise
        except ValueError as error:  # pickletools: an unknown instruction, or the end of the file
            raise RefusedError(f"damaged: {error}") from error
        raise RefusedError("damaged: it does not end")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(_LITERALS[name]())
        elif name in _ARGUMENTS:
            self._stack.append(argument)
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in self._operations:
            self._operations[name](argument)
        elif name != "PROTO":
            raise RefusedError(f"the instruction {name} is not needed for weights")

    def _pop(self) -> Any:
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise RefusedError("damaged: the stack is empty")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _pop_to_mark(self) -> list[Any]:
        if not self._marks:
            raise RefusedError("damaged: a mark is missing")
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._pop_to_mark()))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise RefusedError(f"damaged: nothing was noted under {index}")
        self._stack.append(self._memo[index])

    def _set_items(self, _: Any) -> None:
        items = self._pop_to_mark()
        target = _dict(self._top())
        if len(items) % 2:
            raise RefusedError("damaged: a key without a value")
        target.update((_text(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _dict(self._top())[_text(key)] = value

    def _append_items(self, _: Any) -> None:
        items = self._pop_to_mark()
        target = self._top()
        if not isinstance(target, list):
            raise RefusedError("damaged: a list is missing")
        target.extend(items)

    def _global(self, text: str) -> None:
        if text not in self._modules and text not in (*_DTYPES, _DICT, _TENSOR, _PARAMETER):
            raise RefusedError(f"it wants {text.replace(' ', '.')!r}, which weights do not need; nothing was run")
        self._stack.append(_Name(text))

    def _persistent(self, _: Any) -> None:
        match self._pop():
            case ("module", _Name() as name, str(), str()):
                self._stack.append(name)
            case ("storage", _Name(str() as text), str(key), str(), int(count), None) if text in _DTYPES and _is_count(
                count
            ):
                storage = _Storage(key, _DTYPES[text], count)
                if self._storages.setdefault(key, storage) != storage:
                    raise RefusedError(f"storage {key!r} is described twice, differently")
                self._stack.append(storage)
            case _:
                raise RefusedError("an external reference that is neither a module nor a storage")

    def _new(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, _Name) or name.text not in self._modules or arguments != ():
            raise RefusedError("it makes an object that weights do not need")
        self._stack.append(_Module())

    def _call(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        match name, arguments:
            case _Name("collections OrderedDict"), ():
                self._stack.append({})
            case _Name("torch._utils _rebuild_parameter"), (_Tensor() as tensor, bool(), dict()):
                self._stack.append(tensor)
            case (
                _Name("torch._utils _rebuild_tensor_v2"),
                (_Storage() as storage, int(offset), shape, strides, bool(), dict()),
            ) if 0 <= offset < _COUNT_MAX and len(_counts(shape)) == len(_counts(strides)):
                self._stack.append(_Tensor(storage, offset, shape, strides))
            case _:
                raise RefusedError("it calls something that weights do not need; nothing was run")

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, _Module):
            raise RefusedError("it gives a state to something that is no module")
        target.state = _dict(state)


_LITERALS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_ARGUMENTS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"})
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
