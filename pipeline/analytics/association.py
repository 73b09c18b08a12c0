"""Which detection belongs to which track, and which detections are one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from pipeline.analytics.motion import Motion
from pipeline.types import Detections

Box = tuple[float, float, float, float]

SAME_FACE_IOU = 0.4
"""Boxes of different classes that overlap more are one face: suppression within each class leaves both."""
DISTANCE_GATE = 16.0
"""Squared Mahalanobis distance (2 degrees of freedom) beyond which a detection is not this track: 4 sigma."""
REACH_MAX = 3.0
"""Face sizes that a face may be away from where it was expected, however long nobody looked."""
SIZE_LOG_MAX = 0.7
"""A face of more than twice or less than half the size is another one."""
SIZE_LOG_SD = 0.25
FACES_MAX = 128
"""A look with more faces than that is a flood; the strongest are taken."""


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one look. xyxy: pixels, of the strongest box; scores: confidence of each class, 0 where not seen."""

    xyxy: Box
    confidence: float
    scores: tuple[float, ...]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    shared = wide * high
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def faces(detections: Detections, classes: int) -> list[Face]:
    """The faces behind per-class detections, strongest first, at most ``FACES_MAX``.

    Boxes without area or with a foreign class are none.
    """
    rows = sorted(
        zip(
            detections.confidence.tolist(),
            map(tuple, detections.xyxy.tolist()),
            detections.class_id.tolist(),
            strict=True,
        ),
        reverse=True,
    )
    found: list[tuple[float, Box, list[float]]] = []
    for confidence, box, class_id in rows:
        if not (box[2] > box[0] and box[3] > box[1] and 0 <= class_id < classes):
            continue
        for _, other, scores in found:
            if scores[class_id] == 0.0 and iou(box, other) >= SAME_FACE_IOU:
                scores[class_id] = confidence
                break
        else:
            if len(found) == FACES_MAX:
                break
            scores = [0.0] * classes
            scores[class_id] = confidence
            found.append((confidence, box, scores))
    return [Face(box, confidence, tuple(scores)) for confidence, box, scores in found]


def cost(expected: Motion, box: Box) -> float | None:
    """Twice the negative log likelihood, but for a constant, that ``expected`` shows as ``box``; None: it cannot be."""
    size = expected.size
    off_x = ((box[0] + box[2]) / 2 - expected.cx) / size
    off_y = ((box[1] + box[3]) / 2 - expected.cy) / size
    away = off_x * off_x + off_y * off_y
    spread = expected.spread
    if away > REACH_MAX**2 or away > DISTANCE_GATE * spread:
        return None
    ratio = log((box[2] - box[0]) * (box[3] - box[1])) / 2 - log(size)
    if abs(ratio) > SIZE_LOG_MAX:
        return None
    return away / spread + 2 * log(spread) + (ratio / SIZE_LOG_SD) ** 2


def assign(expected: Sequence[Motion], boxes: Sequence[Box]) -> list[tuple[int, int]]:
    """Pairs (track, box), likeliest first, each used once.

    Greedy: over gates this tight the optimal assignment measures the same (README.md).
    """
    likely: list[tuple[float, int, int]] = []
    for i, motion in enumerate(expected):
        for j, box in enumerate(boxes):
            price = cost(motion, box)
            if price is not None:
                likely.append((price, i, j))
    likely.sort()
    pairs: list[tuple[int, int]] = []
    tracks_used: set[int] = set()
    boxes_used: set[int] = set()
    for _, i, j in likely:
        if i not in tracks_used and j not in boxes_used:
            tracks_used.add(i)
            boxes_used.add(j)
            pairs.append((i, j))
    return pairs
