from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analytics.motion import Motion

spans_s = st.floats(0.001, 5)


@given(spans_s, spans_s)
def test_two_steps_equal_one(first_s: float, second_s: float) -> None:
    start = Motion.at((100, 100, 180, 200)).after(0.1).corrected((110, 100, 190, 200), 0.1)
    once = msgspec.structs.astuple(start.after(first_s + second_s))
    assert msgspec.structs.astuple(start.after(first_s).after(second_s)) == pytest.approx(once, rel=1e-6, abs=1e-9)


def test_a_walker_is_expected_further_on() -> None:
    motion = Motion.at((0, 0, 50, 50))
    for look in range(1, 20):
        motion = motion.after(0.2).corrected((20.0 * look, 0, 50 + 20.0 * look, 50), 0.2)
    assert 12 < motion.after(0.2).cx - motion.cx <= 20
    assert motion.vy == 0


def test_the_longer_nobody_looks_the_less_is_known() -> None:
    start = Motion.at((0, 0, 50, 50))
    spreads = [start.after(dt_s).spread for dt_s in (0.04, 0.2, 1.0, 3.0)]
    assert spreads == sorted(spreads)
