"""Which detection found which face, and the curve of precision over recall that follows.

The rules are those of PASCAL VOC (Everingham et al. 2010): detections, best first, each belong to the face that they
overlap most; the first on a face is a hit, every further one a false alarm. Ignored faces count neither way, and so do
detections that lie on them and on no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.dataset import IGNORED, Truth
from pipeline.types import Detections

IOU_MIN = 0.5

_NEITHER, _FALSE, _HIT = -1, 0, 1


@dataclass(frozen=True, slots=True)
class Looked:
    """One picture: the faces in it and what the detector found there, with every score.

    overlap: (detections, faces) float64, intersection over union.
    """

    truth: Truth
    found: Detections
    width: int
    height: int
    overlap: NDArray[np.float64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "overlap", iou(self.found.xyxy.astype(np.float64), self.truth.xyxy))

    def share(self, xyxy: NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float64]:
        """Square root of each box's area as a share of the picture's: (n, 4) → (n,)."""
        sides = np.maximum(xyxy[:, 2:].astype(np.float64) - xyxy[:, :2], 0)
        return np.asarray(np.sqrt(sides.prod(axis=1) / (self.width * self.height)), np.float64)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Faces whose square root of area is from ``low`` to below ``high`` of the picture's; others count neither way."""

    low: float = 0.0
    high: float = np.inf

    def within(self, shares: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (shares >= self.low) & (shares < self.high)


ALL_SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class Curve:
    """One class over all pictures. scores: (n,) best first. hits: (n,) bool. faces: how many there were to find."""

    scores: NDArray[np.float32]
    hits: NDArray[np.bool_]
    faces: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """Down to each score, the share of detections that are hits."""
        return np.cumsum(self.hits) / np.arange(1, len(self.hits) + 1)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Down to each score, the share of faces that were found."""
        return np.cumsum(self.hits) / max(self.faces, 1)

    def average_precision(self) -> float | None:
        """The area below the curve, each recall with the best precision from there on (VOC 2010, all points).

        None where there was no face to find.
        """
        if not self.faces:
            return None
        # Recall grows only at a hit, by one face each time.
        best_from_here = np.maximum.accumulate(self.precision[::-1])[::-1]
        return float(best_from_here[self.hits].sum() / self.faces)

    def at(self, confidence_min: float) -> tuple[float | None, float | None]:
        """Precision and recall of the detections from that score on; None where nothing was found or was to find."""
        count = int(np.count_nonzero(self.scores >= confidence_min))
        hits = int(np.count_nonzero(self.hits[:count]))
        return (hits / count if count else None, hits / self.faces if self.faces else None)

    def best(self) -> tuple[float, float] | None:
        """The highest harmonic mean of precision and recall (F1) and the score where it is; None without a hit."""
        if not self.hits.any():
            return None
        # hits / (detections + faces) * 2 is the same mean
        f1 = 2 * np.cumsum(self.hits) / (np.arange(1, len(self.hits) + 1) + self.faces)
        # of equal scores none can be had without the others
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        index = int(np.where(last, f1, 0).argmax())
        return float(f1[index]), float(self.scores[index])


def curve(
    pictures: Sequence[Looked], class_id: int | None, iou_min: float = IOU_MIN, sizes: Sizes = ALL_SIZES
) -> Curve:
    """The curve of one class, or, with None, of faces whatever their class."""
    scores, hits, faces = [np.empty(0, np.float32)], [np.empty(0, np.bool_)], 0
    for picture in pictures:
        truth, found = picture.truth, picture.found
        wanted = np.ones(len(truth.class_id), np.bool_)
        mine = np.ones(len(found), np.bool_)
        if class_id is not None:
            wanted = (truth.class_id == class_id) | (truth.class_id == IGNORED)
            mine = found.class_id == class_id
        ignored = (truth.class_id == IGNORED) | ~sizes.within(picture.share(truth.xyxy))
        faces += int(np.count_nonzero(wanted & ~ignored))
        order = np.flatnonzero(mine)
        order = order[np.argsort(-found.confidence[order], kind="stable")]
        state = _states(picture.overlap[order][:, wanted], ignored[wanted], iou_min)
        other_size = ~sizes.within(picture.share(found.xyxy[order]))
        state[(state == _FALSE) & other_size] = _NEITHER
        scores.append(found.confidence[order][state != _NEITHER])
        hits.append(state[state != _NEITHER] == _HIT)
    joined = np.concatenate(scores)
    best_first = np.argsort(-joined, kind="stable")
    return Curve(joined[best_first], np.concatenate(hits)[best_first], faces)


def first_on_each_face(picture: Looked, confidence_min: float, iou_min: float = IOU_MIN) -> NDArray[np.int64]:
    """Which detection of either class is the first on each face: (faces,) indices, -1 where none is.

    Where a face was found as both classes, the better score is what the detector says of it.
    """
    first = np.full(len(picture.truth.class_id), -1, np.int64)
    if not len(first):
        return first
    for index in np.argsort(-picture.found.confidence, kind="stable"):
        if picture.found.confidence[index] < confidence_min:
            break
        face = int(picture.overlap[index].argmax())
        if picture.overlap[index, face] >= iou_min and first[face] < 0:
            first[face] = index
    return first


def iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of each pair: (n, 4), (m, 4) xyxy → (n, m); 0 where neither has an area."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    areas = [np.maximum(boxes[:, 2:] - boxes[:, :2], 0).prod(axis=1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), np.float64)


def _states(overlap: NDArray[np.float64], ignored: NDArray[np.bool_], iou_min: float) -> NDArray[np.int8]:
    """Hit, false alarm or neither, for detections best first; overlap: (detections, faces)."""
    states = np.full(len(overlap), _FALSE, np.int8)
    if not overlap.size:
        return states
    counted = np.where(ignored, -1.0, overlap)
    nearest = counted.argmax(axis=1)
    on_face = counted[np.arange(len(counted)), nearest] >= iou_min
    on_ignored = np.where(ignored, overlap, -1.0).max(axis=1) >= iou_min
    states[on_ignored & ~on_face] = _NEITHER
    on = np.flatnonzero(on_face)
    _, first = np.unique(nearest[on], return_index=True)
    states[on[first]] = _HIT
    return states
