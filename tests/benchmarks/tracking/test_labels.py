"""The labelled episodes are whole, and what is derived from them is right."""

from __future__ import annotations

from pathlib import Path

import labels
import pytest

from tests.shared_data import shared

VIDEOS = sorted(path.stem for path in labels.FOLDER.glob("*.yaml"))
DONNING = "mask_four_people_donning_960x506"


@pytest.mark.parametrize("video", VIDEOS)
def test_boxes_and_spans_lie_in_the_video(video: str) -> None:
    given = labels.read(video)
    for person in given.people:
        times = [time for time, _ in person.boxes]
        assert times == sorted(times)
        assert 0 <= times[0] < times[-1] <= given.end_s + labels.FRAME_S
        assert all(0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 for _, (x0, y0, x1, y1) in person.boxes)
        assert all(times[0] <= start < end <= times[-1] + labels.FRAME_S for start, end in person.bare)
        assert person.ignore in (None, "small", "turned", "hidden")


def test_every_sample_video_is_labelled() -> None:
    folder: Path = shared("videos")
    assert sorted(path.stem for path in folder.iterdir()) == VIDEOS


def test_a_face_is_between_its_boxes() -> None:
    person = labels.Person("p", ((1.0, (0.0, 0.0, 0.2, 0.2)), (3.0, (0.4, 0.0, 0.6, 0.2))))
    assert person.at(2.0) == pytest.approx((0.2, 0.0, 0.4, 0.2))
    assert person.at(0.5) is person.at(3.5) is None


def test_backwards_who_put_one_on_takes_it_off() -> None:
    given = labels.read(DONNING)
    turned = given.backwards()
    woman = next(person for person in turned.people if person.name == "woman with short hair")
    assert woman.expected(0.8) == [pytest.approx((given.end_s - 1.04, given.end_s))]


def test_a_cut_takes_its_part_of_every_span() -> None:
    given = labels.read(DONNING)
    man = next(person for person in given.without(0.9, 2.5).people if person.name == "man on the left")
    assert [second for span in man.bare for second in span] == pytest.approx([0, 0.9, 3.76, 8.02])
