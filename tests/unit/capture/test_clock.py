from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture.clock import LiveClock, StreamClock

TICK = Fraction(1, 100)


def times(stamps: list[int | None], rate: int = 10, start: int = 0) -> list[float]:
    clock = StreamClock(Fraction(rate), Fraction(start))
    return [clock.tick(stamp, TICK) for stamp in stamps]


def test_the_first_picture_is_at_zero_and_a_variable_rate_is_kept() -> None:
    assert times([500, 504, 520, 900]) == [0, 0.04, 0.2, 4.0]


def test_without_timestamps_the_declared_rate_counts() -> None:
    assert times([None] * 4) == [0, 0.1, 0.2, 0.3]


def test_without_timestamps_thousands_of_pictures_do_not_drift() -> None:
    assert times([None] * 3001, rate=30)[-1] == 100


def test_a_missing_timestamp_in_between_is_filled_in() -> None:
    assert times([0, None, 20, 30]) == [0, 0.1, 0.2, 0.3]


def test_a_repeated_timestamp_follows_by_one_period() -> None:
    assert times([0, 10, 10, 30]) == [0, 0.1, 0.2, 0.3]


def test_timestamps_in_disorder_do_not_make_the_clock_run_away() -> None:
    shuffled: list[int | None] = [offset + stamp for offset in range(0, 4000, 40) for stamp in (10, 40, 30, 20)]
    assert abs(times(shuffled)[-1] - 39.9) < 0.3


def test_joined_files_count_on() -> None:
    assert times([0, 4, 300, 0, 4, 300]) == [0, 0.04, 3.0, 3.1, 3.14, 6.1]


def test_a_later_pass_starts_where_it_is_told() -> None:
    assert times([7, 17], start=5) == [5, 5.1]
    clock = StreamClock(Fraction(10), Fraction(5))
    assert clock.next_start == 5
    clock.tick(7, TICK)
    assert clock.next_start == Fraction("5.1")


@given(st.lists(st.none() | st.integers(-(2**62), 2**62) | st.integers(0, 50), max_size=40), st.integers(1, 240))
def test_time_always_goes_forward(stamps: list[int | None], rate: int) -> None:
    clock = StreamClock(Fraction(rate))
    exact: list[Fraction] = []
    for stamp in stamps:
        clock.tick(stamp, TICK)
        exact.append(clock.next_start)
    assert all(before < after for before, after in pairwise(exact))


STEP_S = 0.04


def live_times(delays_s: list[float], first_stamp_s: float = 500.0) -> list[float]:
    """Times of pictures that are taken every ``STEP_S`` from 100 s on and arrive so much later."""
    clock = LiveClock()
    return [clock.tick(first_stamp_s + i * STEP_S, 100 + i * STEP_S + delay) for i, delay in enumerate(delays_s)]


def test_a_live_clock_undoes_the_jitter_of_the_way() -> None:
    times = live_times([0.01, 0.03, 0.2, 0.16, 0.12, 0.01, 0.02] * 20)
    assert times == pytest.approx([100.01 + i * STEP_S for i in range(len(times))], abs=0.015)


def test_a_burst_at_the_start_comes_to_lie_on_the_quickest_way() -> None:
    times = live_times([0.4 - i * STEP_S for i in range(10)] + [0.01] * 20)
    assert times[-1] == pytest.approx(100.01 + 29 * STEP_S)
    assert all(time_s <= 100 + i * STEP_S + 0.41 for i, time_s in enumerate(times))


def test_what_waits_is_known_as_lag() -> None:
    clock = LiveClock()
    for i in range(50):
        clock.tick(i * STEP_S, 100 + i * STEP_S)
    assert clock.lag_s == 0
    clock.tick(50 * STEP_S, 101 + 50 * STEP_S)
    assert clock.lag_s == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [1.0001, 0.9999])
def test_a_sender_whose_clock_runs_otherwise_is_followed(rate: float) -> None:
    clock = LiveClock()
    times = [(clock.tick(i * STEP_S * rate, 100 + i * STEP_S), 100 + i * STEP_S) for i in range(100_000)]
    assert max(abs(time_s - true_s) for time_s, true_s in times) < 0.01


def test_timestamps_that_jump_or_are_missing_do_no_harm() -> None:
    clock = LiveClock()
    arrivals = [100 + i * STEP_S for i in range(6)]
    stamps = [5.0, 5.04, None, 90_000.0, 90_000.04, 1.0]
    times = [clock.tick(stamp, arrival) for stamp, arrival in zip(stamps, arrivals, strict=True)]
    assert times == pytest.approx(arrivals)
