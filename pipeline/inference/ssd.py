"""The SSD head: anchors, decoding and non-maximum suppression, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.model_card import InputSpec, SsdSpec

Nms = Literal["per_class", "agnostic"]

CANDIDATES_MAX = 400
"""The best candidates that go into one suppression: of each class, or of all. Their pairs are compared at once."""

_OFFSET_MAX = np.array([1e6, 1e6, 10, 10], np.float32)  # far outside any picture; beyond it exp overflows


@dataclass(frozen=True, slots=True)
class Suppression:
    """Which of several boxes on one face stay.

    ``per_class`` compares boxes of one class by their own score; this is what evaluations want at low thresholds. At
    a working threshold a face in doubt may then come out as both classes, so of two boxes of different classes that
    overlap by more than ``cross_class_iou_max`` only the better one stays; 1.0 turns that off. It looks at what is
    left after the suppression within each class, so a box that goes here has already removed its own doubles.

    ``agnostic`` is the original's protocol: one class per anchor, its best, and one suppression over all.
    """

    confidence_min: float = 0.5
    iou_max: float = 0.4
    nms: Nms = "per_class"
    cross_class_iou_max: float = 0.4

    def __post_init__(self) -> None:
        for name in ("confidence_min", "iou_max", "cross_class_iou_max"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; it must be 0 to 1")
        if self.nms not in ("per_class", "agnostic"):
            raise ValueError(f"nms is {self.nms!r}; it must be 'per_class' or 'agnostic'")


def anchors(spec: SsdSpec, size: InputSpec) -> NDArray[np.float32]:
    """All anchors as (a, 4) float32: centre x, centre y, width, height, as fractions of the picture."""
    parts = []
    for feature_map in spec.maps:
        wh = np.asarray(feature_map.anchors_wh(size.width, size.height), np.float64)
        part = np.empty((feature_map.rows, feature_map.columns, len(wh), 4), np.float64)
        part[..., 0] = ((np.arange(feature_map.columns) + 0.5) / feature_map.columns)[None, :, None]
        part[..., 1] = ((np.arange(feature_map.rows) + 0.5) / feature_map.rows)[:, None, None]
        part[..., 2:] = wh
        parts.append(part.reshape(-1, 4))
    return np.asarray(np.concatenate(parts), np.float32)


def decode(
    offsets: NDArray[np.float32], anchors_cxcywh: NDArray[np.float32], variances: Sequence[float]
) -> NDArray[np.float32]:
    """Offsets to corners: (n, 4) finite offsets and (n, 4) anchors → (n, 4) xyxy, in 0..1 (Liu et al. 2016, eq. 2).

    Values outside of any picture are limited, so that the result is finite.
    """
    scaled = offsets * np.asarray(variances, np.float32)
    scaled.clip(-_OFFSET_MAX, _OFFSET_MAX, out=scaled)
    centre, size = anchors_cxcywh[:, :2], anchors_cxcywh[:, 2:]
    centre = scaled[:, :2] * size + centre
    half = np.exp(scaled[:, 2:]) * size * np.float32(0.5)
    return np.concatenate((centre - half, centre + half), axis=1)


def iou_matrix(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intersection over union of each pair: (n, 4) → (n, n); 0 for boxes without an area."""
    low, high = xyxy[:, :2], xyxy[:, 2:]
    wh = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    np.maximum(wh, 0, out=wh)
    overlap: NDArray[np.float32] = wh[..., 0] * wh[..., 1]
    area = overlap.diagonal()
    union = area[:, None] + area - overlap
    return np.asarray(overlap / np.maximum(union, np.float32(1e-12)), np.float32)


class SsdHead:
    """Decodes the raw output of one picture."""

    def __init__(self, spec: SsdSpec, size: InputSpec, class_count: int) -> None:
        self._anchors = anchors(spec, size)
        self._variances = spec.variances
        self._class_count = class_count

    def detect(
        self, offsets: NDArray[Any], scores: NDArray[Any], suppression: Suppression
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
        """(a, 4) offsets and (a, c) scores → xyxy (n, 4) in 0..1, confidence (n,), class id (n,), best first.

        Boxes are cut at the picture's border; what has no area left there, or is not finite, is dropped.
        """
        rows, classes, confidence = self._candidates(scores, suppression)
        picked = offsets[rows]
        finite = np.isfinite(picked)
        if not finite.all():
            whole = finite.all(axis=1)
            rows, classes, confidence, picked = rows[whole], classes[whole], confidence[whole], picked[whole]
        xyxy = decode(picked, self._anchors[rows], self._variances)
        kept = suppress(xyxy, classes, suppression)
        xyxy = xyxy[kept].clip(0, 1)
        inside = (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        if not inside.all():
            xyxy, kept = xyxy[inside], np.asarray(kept, np.intp)[inside]
        return xyxy, confidence[kept], classes[kept]

    def _candidates(
        self, scores: NDArray[Any], suppression: Suppression
    ) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.float32]]:
        """Anchor, class and score of what reaches the threshold, best first; the order of equals is the anchors'."""
        flat = scores.reshape(-1)
        index = np.flatnonzero(flat >= suppression.confidence_min)
        confidence = flat[index]
        order = (-confidence).argsort(kind="stable")
        index, confidence = index[order], confidence[order]
        if len(index) and confidence[0] > 1:  # a score above 1 is none, and infinity passes every threshold
            index, confidence = index[confidence <= 1], confidence[confidence <= 1]
        rows, classes = np.divmod(index, self._class_count)
        best: Any = slice(None)
        if suppression.nms == "agnostic":
            best = np.sort(np.unique(rows, return_index=True)[1])[:CANDIDATES_MAX]
        elif len(rows) > CANDIDATES_MAX:
            best = _rank_in_class(classes, self._class_count) < CANDIDATES_MAX
        return rows[best], classes[best].astype(np.int32), confidence[best].astype(np.float32, copy=False)


def _rank_in_class(classes: NDArray[np.intp], class_count: int) -> NDArray[np.intp]:
    """How many of the same class stand before each."""
    rank = np.empty(len(classes), np.intp)
    for class_id in range(class_count):
        mine = classes == class_id
        rank[mine] = np.arange(np.count_nonzero(mine))
    return rank


def suppress(xyxy: NDArray[np.float32], classes: NDArray[np.int32], suppression: Suppression) -> Sequence[int]:
    """Which of the boxes (n, 4) of ``classes`` (n,), best first, stay: their indices, best first."""
    everyone = range(len(xyxy))
    if len(xyxy) < 2:
        return list(everyone)
    iou = iou_matrix(xyxy)
    if suppression.nms == "agnostic":
        return _greedy(iou > suppression.iou_max, everyone)
    same = classes[:, None] == classes
    kept = _greedy((iou > suppression.iou_max) & same, everyone)
    if suppression.cross_class_iou_max < 1:
        kept = _greedy((iou > suppression.cross_class_iou_max) & ~same, kept)
    return kept


def _greedy(beats: NDArray[np.bool_], among: Sequence[int]) -> list[int]:
    """beats[i, j]: i removes j if it stands before it and stays itself. Returns those of ``among`` that stay.

    A row is one big integer, a bit a box: for few boxes as for hundreds this is cheaper than arrays a row.
    """
    rows = np.packbits(beats, axis=1, bitorder="little")
    raw, nbytes = rows.tobytes(), rows.shape[1]
    gone, kept = 0, []
    for i in among:
        if not gone >> i & 1:
            kept.append(i)
            gone |= int.from_bytes(raw[i * nbytes : (i + 1) * nbytes], "little")
    return kept
