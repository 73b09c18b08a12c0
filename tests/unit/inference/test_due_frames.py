"""Which frames are due, and which scenes stand still."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.inference.schedule import STILL_S_MAX, Pace, StillScene
from pipeline.inference.views import Region
from pipeline.types import I420, Layout

FULL: Region = (0, 0, 1, 1)


def looked_at(pace: Pace, times: list[float]) -> list[float]:
    found, last = [], -1
    for time_s in times:
        if pace.due(time_s, last):
            found.append(time_s)
        last = pace.interval(time_s)
    return found


@pytest.mark.parametrize(("max_fps", "looks"), [(5, 50), (10, 100), (25, 250), (24, 240), (12.5, 125), (100, 250)])
def test_ten_seconds_of_25_frames_a_second(max_fps: float, looks: int) -> None:
    assert len(looked_at(Pace(max_fps), [n / 25 for n in range(250)])) == looks


def test_without_a_limit_every_frame_is_due() -> None:
    times = [n / 25 for n in range(100)]
    assert looked_at(Pace(None), times) == times


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-3, 0.5), min_size=1, max_size=200), st.floats(0.5, 60))
def test_looks_are_never_more_than_that_and_no_interval_with_a_frame_is_left_out(
    steps_s: list[float], max_fps: float
) -> None:
    times = [float(time_s) for time_s in np.cumsum(steps_s)]
    found = looked_at(Pace(max_fps), times)
    intervals = [Pace(max_fps).interval(time_s) for time_s in found]
    assert len(set(intervals)) == len(intervals)
    assert set(intervals) == {Pace(max_fps).interval(time_s) for time_s in times}


def scene(noise: float = 0, *, size: tuple[int, int] = (640, 360), seed: int = 0) -> I420:
    """A ramp, with a camera's noise of that standard deviation."""
    image = I420.empty(Layout(*size))
    luma = np.linspace(40, 200, size[0])[None, :] + np.random.default_rng(seed).normal(0, max(noise, 1e-9), size[::-1])
    image.y[:] = luma.clip(0, 255)
    image.u[:], image.v[:] = 128, 128
    return image


def test_noise_is_not_motion_and_a_small_face_is() -> None:
    gate = StillScene(FULL)
    assert not gate.still(scene(6), 0)
    assert all(gate.still(scene(6, seed=n), n * 0.04) for n in range(1, 20))
    walking = scene(6, seed=30)
    walking.y[100:132, 300:326] += 40
    assert not gate.still(walking, 0.8)
    assert gate.still(walking, 0.84)
    assert not gate.still(scene(6, seed=31), 0.88)


def test_slow_change_adds_up() -> None:
    """What counts is the difference from what was looked at, not from the frame before."""
    gate = StillScene(FULL)
    gate.still(scene(), 0)
    moved = scene()
    moves = []
    for n in range(1, 30):
        moved.y[100:140, 100:140] += 1
        moves.append(not gate.still(moved, n * 0.04))
    assert 1 <= sum(moves) <= 3


def test_no_scene_is_left_alone_for_ever() -> None:
    gate = StillScene(FULL)
    times = [n * 0.2 for n in range(100)]
    looked = [time_s for time_s in times if not gate.still(scene(), time_s)]
    assert looked[0] == 0
    assert np.diff(looked).max() <= STILL_S_MAX + 0.2
    assert len(looked) <= 12


def test_only_the_region_counts() -> None:
    gate = StillScene((0.5, 0, 1, 1))
    gate.still(scene(), 0)
    outside, inside = scene(), scene()
    outside.y[100:200, 50:150] = 255
    inside.y[100:200, 400:500] = 255
    assert gate.still(outside, 0.04)
    assert not gate.still(inside, 0.08)


def test_another_size_is_another_scene() -> None:
    gate = StillScene(FULL)
    gate.still(scene(), 0)
    assert not gate.still(scene(size=(320, 180)), 0.04)
    assert gate.still(scene(size=(320, 180)), 0.08)
    assert not gate.still(scene(size=(3, 3)), 0.12)
