"""Decoding that is slower than what comes: a real stream and a real decoder, on a clock of our own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from pipeline.capture.live import LiveVideo
from pipeline.capture.overload import CALM, CALM_MAX, LAG_MAX_S, WINDOW_S, Overload
from pipeline.capture.source import SourceLost
from tests.media import moving
from tests.numbered import number_in, write_numbered

RATE, SECONDS, GOP = 25, 30, 25
COUNT = RATE * SECONDS
LOAD_S = (3.0, 9.0)
QUICK_S = 0.002


class Shown(NamedTuple):
    """level: how much was left out when the picture came. age_s: how much later than the camera had it."""

    number: int
    level: int
    age_s: float
    luma: NDArray[np.uint8]
    corrupt: bool


class Camera:
    """A film with B-frames that comes as a camera sends it; each of its pictures takes its time to decode."""

    def __init__(self, path: Path, cost_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_s = self._began_s = 1000.0
        self._cost_s = cost_s
        monkeypatch.setattr("pipeline.capture.live.time", SimpleNamespace(monotonic=lambda: self._now_s))
        self.video = LiveVideo(str(path), "the camera", stall_s=5, format_=None, options={})
        self.video._packets = self._arriving(self.video._packets)

    def _arriving(self, packets: Iterator[av.Packet[Any]]) -> Iterator[av.Packet[Any]]:
        for number, packet in enumerate(packets):
            self._now_s = max(self._now_s, self._began_s + number / RATE)
            yield packet

    def show(self) -> list[Shown]:
        """The whole film; decoding is slow between the two moments ``LOAD_S``."""
        shown: list[Shown] = []
        while True:
            try:
                picture = self.video.read()
            except SourceLost:
                self.video.close()
                return shown
            luma, at_s = picture.image.y.copy(), self._now_s - self._began_s
            age_s = at_s - number_in(luma) / RATE
            shown.append(Shown(number_in(luma), self.video._overload.level, age_s, luma, picture.corrupt))
            self._now_s += self._cost_s if LOAD_S[0] < at_s < LOAD_S[1] else QUICK_S


@pytest.fixture(scope="module")
def with_b_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of three pictures are such that no other refers to them."""
    options = {"preset": "veryfast", "qp": "18", "x264-params": "bframes=2:b-adapt=0:b-pyramid=none:scenecut=0"}
    pictures = (moving(number, 240, 32) for number in range(COUNT))
    return write_numbered(
        tmp_path_factory.mktemp("film") / "film.mp4", COUNT, pictures, options=options, gop=GOP, rate=RATE
    )


@pytest.fixture(scope="module")
def original(with_b_frames: Path) -> list[tuple[str, NDArray[np.uint8]]]:
    """Kind and luma of every picture."""
    with av.open(str(with_b_frames)) as file:
        return [
            (PictureType(frame.pict_type).name, frame.to_ndarray()[: frame.height].astype(np.uint8))
            for frame in file.decode(video=0)
        ]


@pytest.mark.parametrize(("cost_s", "most"), [(0.06, 1), (0.3, 2)])
def test_pictures_are_left_out_under_load_and_all_are_there_behind_it(
    with_b_frames: Path,
    original: list[tuple[str, NDArray[np.uint8]]],
    monkeypatch: pytest.MonkeyPatch,
    cost_s: float,
    most: int,
) -> None:
    camera = Camera(with_b_frames, cost_s, monkeypatch)
    shown = camera.show()
    numbers = [each.number for each in shown]
    assert numbers == sorted(set(numbers))
    assert len(shown) + camera.video.undecoded >= COUNT - 2, "each is shown or counted, but for what is held at the end"
    assert len(shown) + camera.video.undecoded <= COUNT
    print(f"{camera.video.undecoded} left out, at most {max(each.age_s for each in shown):.2f} s late")

    levels = [each.level for each in shown]
    assert max(levels) == most
    first, last = levels.index(1), len(levels) - levels[::-1].index(1)
    assert numbers[:first] == list(range(first))
    assert numbers[last:] == list(range(numbers[last], numbers[-1] + 1))
    assert numbers[last] < COUNT - 2 * GOP, "it was over long before the film"
    missing = set(range(COUNT - 2)) - set(numbers)
    if most == 1:
        assert {original[number][0] for number in missing} == {"B"}
    else:
        steady = [after.number for before, after in pairwise(shown) if before.level == after.level == 2]
        assert {original[number][0] for number in steady} == {"I"}

    assert max(each.age_s for each in shown) < 2
    assert max(each.age_s for each in shown[last:]) < 2 / RATE
    assert not any(each.corrupt for each in shown)
    for each in shown:
        assert np.array_equal(each.luma, original[each.number][1])


# -- what decides


class Windows:
    """An overload whose windows a test makes up."""

    def __init__(self) -> None:
        self._now_s = 0.0
        self._overload = Overload(0.0)

    def after(self, lag_s: float, idle: float, *, keyframe: bool = True) -> int:
        """The level behind one more window with that lateness and that share of waiting."""
        self._now_s += WINDOW_S
        self._overload.waited_s = idle * WINDOW_S
        self._overload.packet(self._now_s, lag_s, keyframe=keyframe)
        return self._overload.level


def test_one_late_window_is_no_overload() -> None:
    """As behind a process that the machine has left standing for a moment."""
    windows = Windows()
    assert [windows.after(lag_s, 0) for lag_s in (3, 2, 1, 0.1, 3, 0.1)] == [0] * 6


def test_who_waits_for_pictures_is_not_overloaded_however_late_they_are() -> None:
    windows = Windows()
    assert [windows.after(lag_s, 0.1) for lag_s in (1, 2, 3, 4)] == [0] * 4


def test_ever_later_pictures_raise_it_step_by_step() -> None:
    windows = Windows()
    assert [windows.after(lag_s, 0) for lag_s in (LAG_MAX_S / 2, 0.5, 0.7, 0.9, 1.1)] == [0, 0, 1, 2, 2]


def test_it_falls_at_a_key_frame_only() -> None:
    windows = Windows()
    assert [windows.after(lag_s, 0) for lag_s in (0.5, 0.6)] == [0, 1]
    assert [windows.after(0, 0.9, keyframe=False) for _ in range(20)] == [1] * 20
    assert windows.after(0, 0.9) == 0


def test_each_return_in_vain_doubles_the_wait_for_the_next() -> None:
    windows = Windows()
    waits = []
    for _ in range(8):
        while windows.after(windows._now_s + 1, 0) == 0:
            pass
        calm = 0
        while windows.after(0, 0.9) == 1:
            calm += 1
        waits.append(calm)
    assert waits == [2 * CALM, 4 * CALM, 8 * CALM, 16 * CALM, CALM_MAX, CALM_MAX, CALM_MAX, CALM_MAX]
    for _ in range(CALM_MAX + 1):
        windows.after(0, 0.9)
    assert [windows.after(lag_s, 0) for lag_s in (0.5, 0.6)] == [0, 1]
    assert [windows.after(0, 0.9) for _ in range(2 * CALM + 1)] == [1] * (2 * CALM) + [0], "long calm: as at first"
