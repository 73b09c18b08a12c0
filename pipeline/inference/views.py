"""Where in a frame a detector looks: a region, cut into overlapping tiles, and one list of faces out of all of them.

A network sees a picture squashed to its input, so a face that is small in the frame is too small there. In a tile it is
larger. Tiles overlap, so that a face no larger than the overlap is whole in one of them at least; what is larger is
found in the whole region, which is looked at as well. Views are cut from a frame's planes without copying them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.detector import Detector
from pipeline.inference.model_card import ModelCard
from pipeline.inference.ssd import Suppression, suppress
from pipeline.types import I420, Detections, Layout

AUTO_FACE_PX = 40.0
"""``tiles: auto`` cuts until faces of this height can be found."""
AUTO_TILES_MAX = 6
FACE_ASPECT = 0.8
"""Width of a face in heights, for telling sizes."""
_EDGE_SHARE, _EDGE_MIN_PX = 0.01, 2.0
"""A box that comes so near to a tile's inner edge may be of a face that goes on behind it."""
_SAME_FACE = 0.5
"""Two boxes of different views that share so much of the smaller one are one face."""

Region = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class View:
    """A part of a frame in its pixels; the left and upper edge are even, because chroma has half the resolution."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    def of(self, image: I420) -> I420:
        """The pixels of this part of ``image``, as views on its planes."""
        layout = image.layout
        rows, columns = slice(self.y0, self.y1), slice(self.x0, self.x1)
        half_rows, half_columns = slice(self.y0 // 2, (self.y1 + 1) // 2), slice(self.x0 // 2, (self.x1 + 1) // 2)
        part = Layout(self.width, self.height, layout.matrix, layout.full_range, layout.sample_aspect)
        return I420(image.y[rows, columns], image.u[half_rows, half_columns], image.v[half_rows, half_columns], part)


def whole(width: int, height: int, region: Region) -> View:
    """The region, in fractions of the frame, as pixels of a frame of that size; never empty."""
    x0, y0 = (min(_even(share * side), _even(side - 1)) for share, side in ((region[0], width), (region[1], height)))
    x1, y1 = max(round(region[2] * width), x0 + 1), max(round(region[3] * height), y0 + 1)
    return View(x0, y0, min(x1, width), min(y1, height))


def tiles(view: View, columns: int, rows: int, overlap: float) -> list[View]:
    """``columns`` x ``rows`` parts of one size that cover ``view``, by rows; neighbours share ``overlap`` of a side."""
    across = _spans(view.x0, view.x1, columns, overlap)
    down = _spans(view.y0, view.y1, rows, overlap)
    return list(dict.fromkeys(View(x0, y0, x1, y1) for y0, y1 in down for x0, x1 in across))


def _spans(start: int, end: int, count: int, overlap: float) -> list[tuple[int, int]]:
    length = end - start
    side = min(2 * math.ceil(length / (count - (count - 1) * overlap) / 2), length)
    firsts = [start + _even(i * (length - side) / max(count - 1, 1)) for i in range(count)]
    return [(first, first + side) for first in firsts[:-1]] + [(_even(end - side), end)]


def _even(value: float) -> int:
    return 2 * math.floor(value / 2)


def smallest_face(card: ModelCard, view: View) -> tuple[int, int]:
    """(width, height) in pixels of the frame: the smallest face of which the model finds at least half in ``view``.

    As its card says, or of the size of its smallest anchor.
    """
    size = card.input
    smallest_anchor = min(w * h for m in card.head.maps for w, h in m.anchors_wh(size.width, size.height))
    side = card.smallest_face or math.sqrt(smallest_anchor)
    height = side * math.sqrt(view.width * view.height / FACE_ASPECT)
    return math.ceil(FACE_ASPECT * height), math.ceil(height)


def auto_grid(card: ModelCard, view: View, overlap: float) -> tuple[int, int]:
    """(columns, rows): as few tiles as bring faces of ``AUTO_FACE_PX`` within the model's reach, at most six."""
    grids = [(c, r) for c in range(1, AUTO_TILES_MAX + 1) for r in range(1, AUTO_TILES_MAX + 1)]
    grids = [(c, r) for c, r in grids if c * r <= AUTO_TILES_MAX]

    def height(grid: tuple[int, int]) -> int:
        return smallest_face(card, tiles(view, *grid, overlap)[0])[1]

    def squareness(grid: tuple[int, int]) -> float:
        first = tiles(view, *grid, overlap)[0]
        return abs(math.log(first.width / first.height))

    enough = [grid for grid in grids if height(grid) <= AUTO_FACE_PX]
    if enough:
        return min(enough, key=lambda grid: (grid[0] * grid[1], squareness(grid)))
    return min(grids, key=lambda grid: (height(grid), squareness(grid)))


@dataclass(frozen=True, slots=True)
class Looks:
    """Where to look, as ``DetectSpec`` says it.

    region: x0, y0, x1, y1 in fractions of the frame. tiles: ``auto`` or columns x rows such as ``2x1``. overlap: of
    neighbours, as a share of a tile's side.
    """

    region: Region = (0.0, 0.0, 1.0, 1.0)
    tiles: str = "1x1"
    overlap: float = 0.15

    def views(self, card: ModelCard, width: int, height: int) -> list[View]:
        """What is looked at in a frame of that size: the whole region, then its tiles where there are several."""
        region = whole(width, height, self.region)
        if self.tiles == "auto":
            columns, rows = auto_grid(card, region, self.overlap)
        else:
            columns, rows = map(int, self.tiles.split("x"))
        parts = tiles(region, columns, rows, self.overlap) if columns * rows > 1 else []
        return list(dict.fromkeys([region, *parts]))

    def smallest_face(self, card: ModelCard, width: int, height: int) -> tuple[int, int]:
        """(width, height) in pixels of a frame of that size, see ``smallest_face``."""
        return smallest_face(card, self.views(card, width, height)[-1])


class Looking(Protocol):
    """What the inference stage needs of a detector."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def detect_i420(self, image: I420) -> Detections: ...

    def close(self) -> None: ...


class ViewingDetector:
    """A detector that looks at one part of each frame, in tiles. Several threads may use one."""

    def __init__(self, detector: Detector, looks: Looks) -> None:
        self._detector = detector
        self._looks = looks
        self._views: dict[tuple[int, int], list[View]] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each class id, as the card gives them."""
        return self._detector.labels

    def views(self, width: int, height: int) -> list[View]:
        """What is looked at in a frame of that size."""
        known = self._views.get((width, height))
        if known is None:
            known = self._views[width, height] = self._looks.views(self._detector.card, width, height)
        return known

    def detect_i420(self, image: I420) -> Detections:
        """Faces in a video frame, best first, in its pixels; the planes are only read during the call."""
        views = self.views(image.layout.width, image.layout.height)
        found = [self._detector.detect_i420(view.of(image)) for view in views]
        return merge(views, found, self._detector.suppression)

    def close(self) -> None:
        """Frees the network's memory; safe twice."""
        self._detector.close()


def merge(views: Sequence[View], found: Sequence[Detections], suppression: Suppression) -> Detections:
    """One list of faces in pixels of the frame out of what was found in each view, the first of which is the region.

    A face on a tile's edge is seen in part there: such a box goes where a whole one covers it. A face that is all in a
    tile is seen better there than in the region, where boxes of small faces are too large: what the tile says counts.
    """
    boxes = [d.xyxy + _corner(view) for view, d in zip(views, found, strict=True)]
    if len(views) == 1 or not any(map(len, boxes)):
        return Detections(np.concatenate(boxes), *_scores(found))
    cut = [_cut(xyxy, view, views[0]) for view, xyxy in zip(views, boxes, strict=True)]
    coarse = np.zeros(len(boxes[0]), np.bool_)
    for view, xyxy in zip(views[1:], boxes[1:], strict=True):
        coarse |= ~_cut(boxes[0], view, views[0]) & _covers(boxes[0], xyxy)
    dropped = [coarse, *cut[1:]]
    whole_ones = np.concatenate([xyxy[~gone] for xyxy, gone in zip(boxes, dropped, strict=True)])
    dropped[1:] = [c & _covers(xyxy, whole_ones) for c, xyxy in zip(cut[1:], boxes[1:], strict=True)]

    left = np.flatnonzero(~np.concatenate(dropped))
    xyxy = np.concatenate(boxes)
    confidence, class_id = _scores(found)
    order = left[np.argsort(-confidence[left], kind="stable")]
    order = order[suppress(xyxy[order], class_id[order], suppression)]
    return Detections(xyxy[order], confidence[order], class_id[order])


def _scores(found: Sequence[Detections]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    return np.concatenate([d.confidence for d in found]), np.concatenate([d.class_id for d in found])


def _corner(view: View) -> NDArray[np.float32]:
    return np.array([view.x0, view.y0, view.x0, view.y0], np.float32)


def _cut(xyxy: NDArray[np.float32], view: View, region: View) -> NDArray[np.bool_]:
    """Which boxes (n, 4) touch an edge of ``view``, or go beyond it, behind which the region goes on."""
    near_x, near_y = (max(_EDGE_SHARE * side, _EDGE_MIN_PX) for side in (view.width, view.height))
    cut = np.zeros(len(xyxy), np.bool_)
    if view.x0 > region.x0:
        cut |= xyxy[:, 0] < view.x0 + near_x
    if view.y0 > region.y0:
        cut |= xyxy[:, 1] < view.y0 + near_y
    if view.x1 < region.x1:
        cut |= xyxy[:, 2] > view.x1 - near_x
    if view.y1 < region.y1:
        cut |= xyxy[:, 3] > view.y1 - near_y
    return cut


def _covers(xyxy: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(n,): whether a box (n, 4) shares more than half of itself, or of the other, with one of ``others`` (m, 4)."""
    if not len(others):
        return np.zeros(len(xyxy), np.bool_)
    low = np.maximum(xyxy[:, None, :2], others[:, :2])
    high = np.minimum(xyxy[:, None, 2:], others[:, 2:])
    shared = np.maximum(high - low, 0).prod(axis=2)
    smaller = np.minimum(_areas(xyxy)[:, None], _areas(others))
    return np.asarray((shared > _SAME_FACE * smaller).any(axis=1), np.bool_)


def _areas(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]), np.float32)
