"""Boxes in NumPy: overlap, suppression, the SSD decode and the average precision of the evaluation protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
PRECISION = 0.95
"""What a look is to reach at a score of 0.5: precision counts for more than recall, as a face is looked at often."""


def iou_matrix(a: Floats, b: Floats) -> Floats:
    """(n, 4), (m, 4) xyxy -> (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    areas = [(x[:, 2] - x[:, 0]) * (x[:, 3] - x[:, 1]) for x in (a, b)]
    return np.asarray(shared / (areas[0][:, None] + areas[1][None] - shared + 1e-9), np.float32)


def nms(boxes: Floats, scores: Floats, iou_max: float) -> NDArray[np.intp]:
    """Indices kept, best first."""
    order = np.argsort(-scores, kind="stable")
    overlap = iou_matrix(boxes[order], boxes[order]) > iou_max
    alive = np.ones(len(order), bool)
    for i in range(len(order)):
        if alive[i]:
            alive[i + 1 :] &= ~overlap[i, i + 1 :]
    return np.asarray(order[alive], np.intp)


def ssd_decode(offsets: Floats, priors: Floats, variances: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)) -> Floats:
    """(n, 4) offsets and (n, 4) centre/size anchors -> (n, 4) xyxy in the anchors' unit (Liu et al. 2016, eq. 2)."""
    centre = priors[:, :2] + offsets[:, :2] * variances[0] * priors[:, 2:]
    half = priors[:, 2:] * np.exp(offsets[:, 2:] * variances[2]) / 2
    return np.asarray(np.concatenate([centre - half, centre + half], 1), np.float32)


def detect(offsets: Floats, scores: Floats, priors: Floats, score_min: float = 0.02, limit: int = 400,
           iou_max: float = 0.4) -> Floats:  # fmt: skip
    """Per-class suppression: (a, 4), (a, c) -> (n, 6) class, score, xyxy in 0..1."""
    found = []
    for label in range(scores.shape[1]):
        keep = np.where(scores[:, label] >= score_min)[0]
        keep = keep[np.argsort(-scores[keep, label], kind="stable")[:limit]]
        boxes = ssd_decode(offsets[keep], priors[keep])
        order = nms(boxes, scores[keep, label], iou_max)
        found.append(np.column_stack([np.full(len(order), label), scores[keep, label][order], boxes[order]]))
    return np.asarray(np.concatenate(found), np.float32)


@dataclass(frozen=True, slots=True)
class Truth:
    """One picture's faces: boxes (n, 4) xyxy pixels, labels (n,) with -1 for those that count neither way, its size."""

    boxes: Floats
    labels: NDArray[np.int64]
    width: int
    height: int


class Curve(NamedTuple):
    """Precision and recall of all detections down to each score, best first."""

    scores: Floats
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def average_precision(self) -> float:
        """All-point VOC AP."""
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        precision = np.concatenate([[0.0], self.precision, [0.0]])
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        return float((np.diff(recall) * precision[1:]).sum())

    def threshold(self) -> float:
        """The lowest score from which on ``PRECISION`` of what is found is right, or as much of it as ever is."""
        enough = np.flatnonzero(self.precision >= min(PRECISION, self.precision.max()))
        return float(self.scores[enough[-1]])


def curve(
    truths: list[Truth], found: list[Floats], label: int | None, iou_min: float = 0.5, side_min: float = 0.0
) -> Curve:
    """One class (None: any face) over pictures; found: (n, 6) class, score, xyxy pixels each.

    side_min: faces with a smaller square root of area, as a share of the picture's, count neither way.
    """
    positives, scores, hits = 0, [np.zeros(0, np.float32)], [np.zeros(0, bool)]
    for truth, detections in zip(truths, found, strict=True):
        wanted = np.ones(len(truth.labels), bool) if label is None else np.isin(truth.labels, (label, -1))
        boxes, area = truth.boxes[wanted], truth.width * truth.height
        ignored = (truth.labels[wanted] == -1) | (_side(boxes, area) < side_min)
        positives += int((~ignored).sum())
        rows = detections if label is None else detections[detections[:, 0] == label]
        rows = rows[np.argsort(-rows[:, 1], kind="stable")]
        if not len(rows):
            continue
        overlap = iou_matrix(rows[:, 2:], boxes) if len(boxes) else np.zeros((len(rows), 0), np.float32)
        state = _match(overlap, ignored, iou_min)
        state[(state == 0) & (_side(rows[:, 2:], area) < side_min)] = -1
        scores.append(rows[state >= 0, 1])
        hits.append(state[state >= 0] == 1)
    joined = np.concatenate(scores)
    order = np.argsort(-joined, kind="stable")
    true = np.cumsum(np.concatenate(hits)[order])
    return Curve(joined[order], true / np.arange(1, len(true) + 1), true / max(positives, 1))


def _side(boxes: Floats, area: int) -> Floats:
    return np.asarray(np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / area), np.float32)


def _match(overlap: Floats, ignored: NDArray[np.bool_], iou_min: float) -> NDArray[np.int64]:
    """Per detection, best first: 1 a hit, 0 a miss, -1 neither."""
    state = np.zeros(len(overlap), np.int64)
    used = np.zeros(overlap.shape[1], bool)
    for i in range(len(overlap) if overlap.shape[1] else 0):
        real = np.where(ignored, -1.0, overlap[i])
        best = int(real.argmax())
        if real[best] >= iou_min:
            state[i] = 0 if used[best] else 1
            used[best] = True
        elif overlap[i][ignored].max(initial=-1.0) >= iou_min:
            state[i] = -1
    return state


def squash(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The whole picture at the network's size, averaging areas where both sides shrink."""
    shrinks = picture.shape[1] >= width and picture.shape[0] >= height
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)
