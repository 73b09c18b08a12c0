"""Reads a pickle as far as it is data, and runs nothing that stands in it.

A pickle is a program for a stack machine that may call any function. It is never given to ``pickle`` here: this small
machine knows only the instructions that a PyTorch module's weights need. A name stands for itself, and "calling" one of
the few names that are known gives an inert description.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_INSTRUCTIONS_MAX = 500_000
_DIMENSIONS_MAX = 8
_COUNT_MAX = 1 << 31
_NAME_BYTES_MAX = 200

_DTYPES: dict[str, np.dtype[Any]] = {"torch FloatStorage": np.dtype("<f4"), "torch LongStorage": np.dtype("<i8")}
_DICT = "collections OrderedDict"
_TENSOR = "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"


class RefusedError(ValueError):
    """The file is damaged, or holds something that weights do not need."""


@dataclass(frozen=True, slots=True)
class Name:
    """A global: ``module name``, as the pickle writes it. It is never looked up."""

    text: str


@dataclass(slots=True, eq=False)
class Module:
    """An object of a module's class: what it was given as state."""

    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise RefusedError("a text is missing")
    return value


def as_dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError("a dictionary is missing")
    return value


def _counts(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > _DIMENSIONS_MAX or not all(is_count(n) for n in value):
        raise RefusedError("a tensor's shape or strides are not counts")
    return value


def is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < _COUNT_MAX


class Machine:
    """Runs one pickle as far as it is data."""

    def __init__(self, stream: io.BytesIO, modules: Collection[str], storages: dict[str, Storage]) -> None:
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
            "APPEND": self._append,
            "GLOBAL": self._global,
            "BINPERSID": self._persistent,
            "NEWOBJ": self._new,
            "REDUCE": self._call,
            "BUILD": self._build,
        }

    def run(self) -> Any:
        """What the pickle describes; the stream then stands behind it."""
        for _ in range(_INSTRUCTIONS_MAX):
            name, argument = _next(self._stream)
            if name == "STOP":
                return self._pop()
            self._step(name, argument)
        raise RefusedError(f"more than {_INSTRUCTIONS_MAX} instructions")

    def _step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            self._stack.append(_LITERALS[name]())
        elif name in _ARGUMENTS:
            self._stack.append(argument)
        elif name in _TUPLES:
            items = [self._pop() for _ in range(_TUPLES[name])]
            self._stack.append(tuple(reversed(items)))
        elif name in self._operations:  # all but PROTO, which says nothing here
            self._operations[name](argument)

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
        target = as_dict(self._top())
        if len(items) % 2:
            raise RefusedError("damaged: a key without a value")
        target.update((as_text(key), value) for key, value in zip(items[::2], items[1::2], strict=True))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        as_dict(self._top())[as_text(key)] = value

    def _append(self, _: Any) -> None:
        self._extend([self._pop()])

    def _append_items(self, _: Any) -> None:
        self._extend(self._pop_to_mark())

    def _extend(self, items: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise RefusedError("damaged: a list is missing")
        target.extend(items)

    def _global(self, text: str) -> None:
        if text not in self._modules and text not in (*_DTYPES, _DICT, _TENSOR, _PARAMETER):
            raise RefusedError(f"it wants {text.replace(' ', '.')!r}, which weights do not need; nothing was run")
        self._stack.append(Name(text))

    def _persistent(self, _: Any) -> None:
        match self._pop():
            case ("module", Name() as name, str(), str()):
                self._stack.append(name)
            case ("storage", Name(str() as text), str(key), str(), int(count), None) if text in _DTYPES and is_count(
                count
            ):
                storage = Storage(key, _DTYPES[text], count)
                if self._storages.setdefault(key, storage) != storage:
                    raise RefusedError(f"storage {key!r} is described twice, differently")
                self._stack.append(storage)
            case _:
                raise RefusedError("an external reference that is neither a module nor a storage")

    def _new(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, Name) or name.text not in self._modules or arguments != ():
            raise RefusedError("it makes an object that weights do not need")
        self._stack.append(Module())

    def _call(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        match name, arguments:
            case Name("collections OrderedDict"), ():
                self._stack.append({})
            case Name("torch._utils _rebuild_parameter"), (Tensor() as tensor, bool(), dict()):
                self._stack.append(tensor)
            case (
                Name("torch._utils _rebuild_tensor_v2"),
                (Storage() as storage, int(offset), shape, strides, bool(), dict()),
            ) if 0 <= offset < _COUNT_MAX and len(_counts(shape)) == len(_counts(strides)):
                self._stack.append(Tensor(storage, offset, shape, strides))
            case _:
                raise RefusedError("it calls something that weights do not need; nothing was run")

    def _build(self, _: Any) -> None:
        state, target = self._pop(), self._top()
        if not isinstance(target, Module):
            raise RefusedError("it gives a state to something that is no module")
        target.state = as_dict(state)


def _next(stream: io.BytesIO) -> tuple[str, Any]:
    """The next instruction and its argument; anything that data does not need is refused before it is read."""
    code = stream.read(1)
    if not code:
        raise RefusedError("damaged: it breaks off")
    name = _NAMES.get(code)
    if name not in _READERS:
        raise RefusedError(f"the instruction {name or code!r} is not needed for weights")
    return name, _READERS[name](stream)


def _bytes(stream: io.BytesIO, count: int) -> bytes:
    raw = stream.read(count)
    if len(raw) != count:
        raise RefusedError("damaged: it breaks off")
    return raw


def _read_nothing(_: io.BytesIO) -> None:
    return None


def _read(form: str) -> Callable[[io.BytesIO], Any]:
    """A reader of one number in the ``struct`` format ``form``."""
    number = struct.Struct(form)
    return lambda stream: number.unpack(_bytes(stream, number.size))[0]


def _read_long(stream: io.BytesIO) -> int:
    return int.from_bytes(_bytes(stream, _bytes(stream, 1)[0]), "little", signed=True)


def _read_text(stream: io.BytesIO) -> str:
    raw = _bytes(stream, struct.unpack("<I", _bytes(stream, 4))[0])
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise RefusedError("damaged: a text is not UTF-8") from error


def _read_global(stream: io.BytesIO) -> str:
    """``module name``, from two lines."""
    lines = [stream.readline(_NAME_BYTES_MAX), stream.readline(_NAME_BYTES_MAX)]
    if not all(line.endswith(b"\n") for line in lines):
        raise RefusedError("damaged: a name breaks off or is too long")
    return " ".join(line[:-1].decode("ascii", "backslashreplace") for line in lines)


_NAMES = {opcode.code.encode("latin-1"): opcode.name for opcode in pickletools.opcodes}
_LITERALS: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARGUMENTS: dict[str, Callable[[io.BytesIO], Any]] = {
    "BININT": _read("<i"),
    "BININT1": _read("<B"),
    "BININT2": _read("<H"),
    "BINFLOAT": _read(">d"),
    "LONG1": _read_long,
    "BINUNICODE": _read_text,
}
_WITHOUT_ARGUMENT = (
    "MARK", "STOP", "TUPLE", "SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPERSID", "NEWOBJ", "REDUCE", "BUILD",
    *_LITERALS, *_TUPLES,
)  # fmt: skip
_READERS: dict[str, Callable[[io.BytesIO], Any]] = {
    **dict.fromkeys(_WITHOUT_ARGUMENT, _read_nothing),
    **_ARGUMENTS,
    "PROTO": _read("<B"),
    "BINPUT": _read("<B"),
    "BINGET": _read("<B"),
    "LONG_BINPUT": _read("<I"),
    "LONG_BINGET": _read("<I"),
    "GLOBAL": _read_global,
}
