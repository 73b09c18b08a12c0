"""Matching and AP on cases small enough to be computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluation.dataset import IGNORED, Truth
from pipeline.evaluation.figures import confusion, figures
from pipeline.evaluation.matching import Curve, Looked, Sizes, curve, first_on_each_face, iou
from pipeline.types import Detections

LABELS = ("mask", "no_mask")
Face = tuple[float, float, float, float]


def box(x: float, y: float = 0, side: float = 10) -> Face:
    return x, y, x + side, y + side


def looked(faces: list[tuple[Face, int]], found: list[tuple[Face, float, int]], size: int = 100) -> Looked:
    truth = Truth.of([xyxy for xyxy, _ in faces], [class_id for _, class_id in faces])
    detections = Detections(
        np.array([xyxy for xyxy, _, _ in found], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in found], np.float32),
        np.array([class_id for _, _, class_id in found], np.int32),
    )
    return Looked(truth, detections, size, size)


def test_overlap() -> None:
    a = np.array([box(0), (0, 0, 0, 0)], float)
    b = np.array([box(0), box(5), box(20), (0, 0, 0, 0)], float)
    assert iou(a, b) == pytest.approx(np.array([[1, 50 / 150, 0, 0], [0, 0, 0, 0]]))


def test_precision_over_recall_by_hand() -> None:
    """Three faces; hit, false alarm, hit: (1 + 2/3) / 3."""
    picture = looked(
        [(box(0), 0), (box(20), 0), (box(40), 0)],
        [(box(0), 0.9, 0), (box(70), 0.8, 0), (box(20), 0.7, 0)],
    )
    found = curve([picture], 0)
    assert found.hits.tolist() == [True, False, True]
    assert found.precision == pytest.approx([1, 1 / 2, 2 / 3])
    assert found.recall == pytest.approx([1 / 3, 1 / 3, 2 / 3])
    assert found.average_precision() == pytest.approx((1 + 2 / 3) / 3)
    assert found.at(0.75) == pytest.approx((1 / 2, 1 / 3))
    assert found.best() == pytest.approx((2 * 2 / (3 + 3), 0.7))


def test_a_recall_counts_with_the_best_precision_from_there_on() -> None:
    """False alarm, hit, hit: precision 0, 1/2, 2/3; both hits count with 2/3."""
    found = Curve(np.array([0.9, 0.8, 0.7], np.float32), np.array([False, True, True]), 2)
    assert found.average_precision() == pytest.approx(2 / 3)


def test_a_second_box_on_a_face_is_a_false_alarm() -> None:
    picture = looked([(box(0), 0)], [(box(1), 0.9, 0), (box(0), 0.8, 0)])
    assert curve([picture], 0).hits.tolist() == [True, False]


def test_the_order_over_pictures_is_that_of_the_scores() -> None:
    first = looked([(box(0), 0)], [(box(50), 0.6, 0)])
    second = looked([(box(0), 0)], [(box(0), 0.7, 0)])
    found = curve([first, second], 0)
    assert found.scores == pytest.approx([0.7, 0.6])
    assert found.hits.tolist() == [True, False]
    assert found.average_precision() == pytest.approx(1 / 2)


def test_an_ignored_face_counts_neither_way_and_for_no_class() -> None:
    picture = looked([(box(0), 0), (box(20), IGNORED)], [(box(20), 0.9, 0), (box(0), 0.8, 0), (box(20), 0.7, 1)])
    assert curve([picture], 0).hits.tolist() == [True]
    assert curve([picture], 0).faces == 1
    assert len(curve([picture], 1).hits) == 0
    assert curve([picture], 1).average_precision() is None
    assert figures([picture], LABELS, 0.5)["map50"] == 1


def test_a_face_that_counts_comes_before_an_ignored_one() -> None:
    picture = looked([(box(0), 0), (box(1), IGNORED)], [(box(1), 0.9, 0)])
    assert curve([picture], 0).hits.tolist() == [True]


def test_another_class_is_a_miss_and_a_false_alarm_but_the_same_face() -> None:
    picture = looked([(box(0), 0)], [(box(0), 0.9, 1)])
    assert curve([picture], 0).average_precision() == 0
    assert curve([picture], 1).hits.tolist() == [False]
    assert curve([picture], None).average_precision() == 1


def test_the_overlap_that_is_asked_for() -> None:
    picture = looked([(box(0), 0)], [(box(4), 0.9, 0)])  # 60 / 140
    assert curve([picture], 0).average_precision() == 0
    assert curve([picture], 0, iou_min=0.4).average_precision() == 1


def test_faces_of_other_sizes_count_neither_way() -> None:
    """Sides of 4, 10 and 30 % of the picture; only that of 10 % counts, and a small false alarm does not."""
    faces = [(box(0, side=4), 0), (box(20), 0), (box(50, side=30), 0)]
    found = [(box(0, side=4), 0.9, 0), (box(20), 0.8, 0), (box(50, side=30), 0.7, 0), (box(0, 60, side=4), 0.6, 0)]
    wanted = curve([looked(faces, found)], 0, sizes=Sizes(0.05, 0.2))
    assert wanted.faces == 1
    assert wanted.hits.tolist() == [True]


def test_confusion_takes_the_better_of_two_classes_on_one_face() -> None:
    picture = looked(
        [(box(0), 0), (box(20), 1), (box(40), 1), (box(60), IGNORED)],
        [(box(0), 0.9, 0), (box(0), 0.6, 1), (box(20), 0.8, 0), (box(20), 0.55, 1), (box(40), 0.4, 1), (box(60), 1, 0)],
    )
    assert first_on_each_face(picture, 0.5).tolist() == [0, 2, -1, 5]
    assert confusion([picture], LABELS, 0.5) == {
        "mask": {"mask": 1, "no_mask": 0, "missed": 0},
        "no_mask": {"mask": 1, "no_mask": 0, "missed": 1},
    }


def test_nothing_found_and_nothing_there() -> None:
    nothing = figures([looked([], [])], LABELS, 0.5)
    assert nothing["map50"] is None
    assert nothing["best_threshold"] == {"mask": None, "no_mask": None}
    missed = figures([looked([(box(0), 0)], [])], LABELS, 0.5)
    assert missed["map50"] == 0
    assert missed["ap50"] == {"mask": 0, "no_mask": None}
    assert missed["at_threshold"]["mask"] == {"precision": None, "recall": 0}


def test_equal_scores_are_one_threshold() -> None:
    found = Curve(np.array([0.5, 0.5], np.float32), np.array([True, False]), 1)
    assert found.best() == pytest.approx((2 / 3, 0.5))
