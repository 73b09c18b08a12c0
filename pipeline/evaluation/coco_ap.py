"""COCO's AP: the mean over overlaps from 0.50 to 0.95, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.errors import StartupError
from pipeline.evaluation.dataset import IGNORED
from pipeline.evaluation.matching import Looked

_DETECTIONS_MAX = 400
"""Of a picture; COCO's own 100 cuts crowds short."""


def map50_95(pictures: Sequence[Looked], class_count: int) -> float | None:
    """AP over ten overlaps and all classes with faces; None where there are none.

    Ignored faces are crowds to pycocotools, of every class. Raises ``StartupError`` where it is not installed.
    """
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise StartupError(
            "the mean over overlaps needs pycocotools, which is not installed: pip install pycocotools"
        ) from error
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": i, "width": p.width, "height": p.height} for i, p in enumerate(pictures)],
        "categories": [{"id": class_id} for class_id in range(class_count)],
        "annotations": _faces(pictures, class_count),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it tells every step there
        truth.createIndex()
        found = _detections(pictures)
        evaluation = COCOeval(truth, truth.loadRes(found) if len(found) else COCO(), "bbox")
        evaluation.params.maxDets = [_DETECTIONS_MAX]
        evaluation.params.imgIds = list(range(len(pictures)))
        evaluation.params.catIds = list(range(class_count))
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, 0]  # overlaps, recalls, classes; -1 for a class without faces
    return float(precision[precision > -1].mean()) if (precision > -1).any() else None


def _faces(pictures: Sequence[Looked], class_count: int) -> list[dict[str, Any]]:
    faces: list[dict[str, Any]] = []
    for image_id, picture in enumerate(pictures):
        for xyxy, class_id in zip(picture.truth.xyxy.tolist(), picture.truth.class_id.tolist(), strict=True):
            width, height = xyxy[2] - xyxy[0], xyxy[3] - xyxy[1]
            ignored = class_id == IGNORED
            faces += [
                {
                    "id": len(faces) + n + 1,  # to pycocotools, 0 is no match
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [xyxy[0], xyxy[1], width, height],
                    "area": width * height,
                    "iscrowd": int(ignored),
                }
                for n, category in enumerate(range(class_count) if ignored else (class_id,))
            ]
    return faces


def _detections(pictures: Sequence[Looked]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(n, 7): image, x, y, width, height, score, class."""
    rows = [np.empty((0, 7))]
    for image_id, picture in enumerate(pictures):
        found = picture.found
        low, high = found.xyxy[:, :2].astype(np.float64), found.xyxy[:, 2:]
        image = np.full(len(found), image_id)
        rows.append(np.column_stack([image, low, high - low, found.confidence, found.class_id]))
    return np.concatenate(rows)
