"""Parts of a picture with a name: polygons in shares of its width and height, the same at every size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.types import I420, Layout

AREA_MIN = 1e-4
"""Shares of the picture; what is smaller is a line or a slip of the pen."""

Share = Annotated[float, Field(ge=0, le=1)]
Point = tuple[Share, Share]


class Area(BaseModel):
    """``polygon``: its corners, (x, y) from the upper left, in order; the last is joined to the first.

    source: where it lies; None: in every source of the pipeline.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    polygon: Annotated[list[Point], Field(min_length=3, max_length=64)]
    source: str | None = None

    @model_validator(mode="after")
    def _encloses_something(self) -> Self:
        if any(_cross(*one, *other) for one, other in combinations(self._edges(), 2)):
            raise ValueError("the polygon's edges cross each other; give its corners in order")
        if abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in self._edges())) / 2 < AREA_MIN:
            raise ValueError(f"the polygon encloses less than {AREA_MIN:g} of the picture")
        return self

    def _edges(self) -> Iterator[tuple[Point, Point]]:
        return pairwise([*self.polygon, self.polygon[0]])

    def holds(self, x: float, y: float) -> bool:
        """Whether the point, in shares of the picture, lies in it (even-odd rule)."""
        inside = False
        for (ax, ay), (bx, by) in self._edges():
            if (ay > y) != (by > y) and x < ax + (y - ay) / (by - ay) * (bx - ax):
                inside = not inside
        return inside

    def applies_to(self, source_id: str) -> bool:
        return self.source in (None, source_id)


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the segments a-b and c-d cross in a point that is an end of neither."""

    def side(p: Point, q: Point, r: Point) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0


class Curtain:
    """Makes parts of a picture black, in place: every pixel that a polygon touches, and whole chroma samples."""

    def __init__(self, areas: Sequence[Area]) -> None:
        self._areas = tuple(areas)
        self._layout: Layout | None = None
        self._covers: list[_Cover] = []

    def draw(self, image: I420) -> None:
        if image.layout != self._layout:
            self._layout, self._covers = image.layout, [_cover(area, image.layout) for area in self._areas]
        black = 0 if image.layout.full_range else 16
        for cover in self._covers:
            np.copyto(image.y[cover.luma], black, where=cover.luma_mask)
            np.copyto(image.u[cover.chroma], 128, where=cover.chroma_mask)
            np.copyto(image.v[cover.chroma], 128, where=cover.chroma_mask)


class _Cover:
    """What one polygon covers of a picture: the slices that hold it, and which pixels of them."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        top, left = int(rows[0]) // 2 * 2, int(columns[0]) // 2 * 2
        self.luma = np.s_[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
        self.luma_mask = mask[self.luma]
        height, width = self.luma_mask.shape
        even = np.zeros((height + height % 2, width + width % 2), np.bool_)
        even[:height, :width] = self.luma_mask
        self.chroma_mask = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).any(axis=(1, 3))
        high, wide = self.chroma_mask.shape
        self.chroma = np.s_[top // 2 : top // 2 + high, left // 2 : left // 2 + wide]


def _cover(area: Area, layout: Layout) -> _Cover:
    import cv2  # whoever only checks a configuration does without

    corners = np.array([(x * layout.width, y * layout.height) for x, y in area.polygon])
    mask = np.zeros((layout.height, layout.width), np.uint8)
    inside = np.minimum(np.floor(corners).astype(np.int32), (layout.width - 1, layout.height - 1))
    cv2.fillPoly(mask, [inside], 1)
    # a pixel to every side: what the polygon only touches is covered too
    return _Cover(cv2.dilate(mask, np.ones((3, 3), np.uint8)).astype(np.bool_))
