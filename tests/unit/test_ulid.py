from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ulid import id_factory, ulid

moments_ns = st.integers(0, 2**60)


def test_ulid_of_the_specification_s_example() -> None:
    assert ulid(1_469_918_176_385_000_000, bytes(10)) == "01ARYZ6S41" + "0" * 16
    assert ulid(0, b"\xff" * 10) == "0" * 10 + "Z" * 16


@given(moments_ns, moments_ns, st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_have_the_form_and_sort_by_time(first_ns: int, second_ns: int, a: bytes, b: bytes) -> None:
    first, second = ulid(first_ns, a), ulid(second_ns, b)
    assert re.fullmatch(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", first)
    if first_ns // 1_000_000 < second_ns // 1_000_000:
        assert first < second


def test_an_id_is_repeated_for_the_same_run_moment_and_key_only() -> None:
    make = id_factory(b"run")
    assert make(5, "gate/1") == id_factory(b"run")(5, "gate/1")
    assert (
        len({make(5, "gate/1"), make(5, "gate/2"), id_factory(b"other")(5, "gate/1"), make(5_000_000, "gate/1")}) == 4
    )


@pytest.mark.parametrize(("wall_ns", "size"), [(-1, 10), (2**68, 10), (0, 9)])
def test_what_does_not_fit_is_refused(wall_ns: int, size: int) -> None:
    with pytest.raises(ValueError, match="a ULID needs"):
        ulid(wall_ns, bytes(size))
