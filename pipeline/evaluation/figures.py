"""The figures of an evaluation, in their documented JSON form."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.dataset import IGNORED
from pipeline.evaluation.matching import ALL_SIZES, IOU_MIN, Looked, Sizes, curve, first_on_each_face

FROM_5_PERCENT = Sizes(0.05)
SIZES = (Sizes(0, 0.05), Sizes(0.05, 0.1), Sizes(0.1, 0.2), Sizes(0.2))
MISSED = "missed"


def figures(pictures: Sequence[Looked], labels: Sequence[str], confidence_min: float) -> dict[str, Any]:
    """All figures but COCO's; confidence_min: the threshold in use.

    ``map…`` is the mean of ``ap…`` over the classes that have faces; both are None where there are none.
    ``at_threshold`` takes each class by itself; ``confusion`` takes for each face the best detection of any class.
    """
    ap50 = average_precisions(pictures, labels)
    min5 = average_precisions(pictures, labels, sizes=FROM_5_PERCENT)
    ap40 = average_precisions(pictures, labels, iou_min=0.4)
    face = curve(pictures, None)
    return {
        "images": len(pictures),
        "faces": {
            **{label: _count(pictures, class_id) for class_id, label in enumerate(labels)},
            "ignored": _count(pictures, IGNORED),
        },
        "map50": mean(ap50.values()),
        "ap50": ap50,
        "map50_min5": mean(min5.values()),
        "ap50_min5": min5,
        "map40": mean(ap40.values()),
        "ap40": ap40,
        "face_ap50": face.average_precision(),
        "at_threshold": {"confidence_min": confidence_min, **_at_threshold(pictures, labels, confidence_min)},
        "best_threshold": _best_threshold(pictures, labels),
        "confusion": confusion(pictures, labels, confidence_min),
        "by_size": [_of_size(pictures, labels, sizes) for sizes in SIZES],
    }


def average_precisions(
    pictures: Sequence[Looked], labels: Sequence[str], iou_min: float = IOU_MIN, sizes: Sizes = ALL_SIZES
) -> dict[str, float | None]:
    """AP of each class, by its label."""
    return {
        label: curve(pictures, class_id, iou_min, sizes).average_precision() for class_id, label in enumerate(labels)
    }


def mean(values: Iterable[float | None]) -> float | None:
    """Of those that are there."""
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


def confusion(pictures: Sequence[Looked], labels: Sequence[str], confidence_min: float) -> dict[str, dict[str, int]]:
    """For faces of each class, how many were found as which class, and how many were missed."""
    names = (*labels, MISSED)
    counts = {label: dict.fromkeys(names, 0) for label in labels}
    for picture in pictures:
        first = first_on_each_face(picture, confidence_min)
        for face, index in zip(picture.truth.class_id, first, strict=True):
            if face != IGNORED:
                said = MISSED if index < 0 else labels[picture.found.class_id[index]]
                counts[labels[face]][said] += 1
    return counts


def _at_threshold(pictures: Sequence[Looked], labels: Sequence[str], confidence_min: float) -> dict[str, Any]:
    found = {}
    for class_id, label in enumerate(labels):
        precision, recall = curve(pictures, class_id).at(confidence_min)
        found[label] = {"precision": precision, "recall": recall}
    return found


def _best_threshold(pictures: Sequence[Looked], labels: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for class_id, label in enumerate(labels):
        of_class = curve(pictures, class_id)
        best = of_class.best()
        if best is None:
            found[label] = None
            continue
        f1, confidence_min = best
        precision, recall = of_class.at(confidence_min)
        found[label] = {"confidence_min": confidence_min, "f1": f1, "precision": precision, "recall": recall}
    return found


def _of_size(pictures: Sequence[Looked], labels: Sequence[str], sizes: Sizes) -> dict[str, Any]:
    found = average_precisions(pictures, labels, sizes=sizes)
    return {
        "side_from": sizes.low,
        "side_to": None if np.isinf(sizes.high) else sizes.high,
        "faces": {label: _count(pictures, class_id, sizes) for class_id, label in enumerate(labels)},
        "map50": mean(found.values()),
        "ap50": found,
    }


def _count(pictures: Sequence[Looked], class_id: int, sizes: Sizes = ALL_SIZES) -> int:
    return sum(
        int(np.count_nonzero((p.truth.class_id == class_id) & sizes.within(p.share(p.truth.xyxy)))) for p in pictures
    )
