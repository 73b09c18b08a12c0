"""Makes faces unrecognisable, on the planes of one frame: a few large squares in place of each.

A face is hidden where the tracker has it, found or carried forward, with a margin; and for ``LINGER_S`` longer where it
was last, because a face that the detector misses for a moment is still there. Nothing is hidden that was never found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.types import I420, Result

Blurred = Literal["all", "masked", "none"]

LINGER_S = 1.0
MARGIN = 0.3
"""Of the box's width and height, to every side: boxes end at the brow and the chin, and a head moves."""
SQUARES = 6
"""Across the shorter side of a face with its margin: about four across the face itself."""

Box = tuple[float, float, float, float]


class FaceBlur:
    """Those of one source. labels: the model's class names by class id; ``masked`` are those of class ``mask``."""

    def __init__(self, blurred: Blurred, labels: Sequence[str]) -> None:
        masked = {i for i, label in enumerate(labels) if label == "mask"}
        self._class_ids = {"all": None, "masked": masked, "none": set[int]()}[blurred]
        self._places: dict[int, tuple[float, Box]] = {}

    @property
    def hides(self) -> bool:
        """Whether there is anybody whom it would hide."""
        return self._class_ids is None or bool(self._class_ids)

    def draw(self, image: I420, result: Result) -> None:
        """Hides the faces of ``result`` in ``image``, in place; frames come in order."""
        self.follow(result)
        for _, box in self._places.values():
            _pixelate(image, box)

    def follow(self, result: Result) -> None:
        """Takes notice of a frame that is not drawn."""
        now_s = result.frame.time_s
        for track in result.tracks:
            if self._class_ids is None or track.class_id in self._class_ids:
                self._places[track.id] = (now_s, track.xyxy)
            else:
                self._places.pop(track.id, None)
        self._places = {i: place for i, place in self._places.items() if now_s - place[0] <= LINGER_S}


def _pixelate(image: I420, box: Box) -> None:
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        return
    wide, high = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    width, height = image.layout.width, image.layout.height
    # even places, so that luma and chroma end together
    left, top = _to_even(max(0.0, x0 - wide)), _to_even(max(0.0, y0 - high))
    right, bottom = (min(end, _to_even(min(end, at)) + 2) for end, at in ((width, x1 + wide), (height, y1 + high)))
    if left >= right or top >= bottom:
        return
    square = max(1.0, min(right - left, bottom - top) / SQUARES)
    squares = (max(1, round((right - left) / square)), max(1, round((bottom - top) / square)))
    _coarsen(image.y[top:bottom, left:right], squares)
    rows, columns = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
    _coarsen(image.u[rows, columns], squares)
    _coarsen(image.v[rows, columns], squares)


def _to_even(pixels: float) -> int:
    return int(min(pixels, 1e9)) // 2 * 2


def _coarsen(plane: NDArray[np.uint8], squares: tuple[int, int]) -> None:
    height, width = plane.shape
    few = cv2.resize(plane, squares, interpolation=cv2.INTER_AREA)
    plane[:] = cv2.resize(few, (width, height), interpolation=cv2.INTER_NEAREST)
