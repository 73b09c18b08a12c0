"""Which frames are looked at: so many a second, and not those of a scene that stands still."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.inference.views import Region, whole
from pipeline.types import I420

STILL_S_MAX = 2.0
"""However still a scene is, it is looked at this often."""
_CELL = 8
"""Pixels along each side of what is averaged before scenes are compared: a camera's noise is gone then."""
_LEVELS_MIN = 10
"""Of 255: a cell has changed from here on."""
_CELLS_MIN = 4
"""A scene has moved when so many cells have changed: a quarter of a face of 32 pixels."""
_ROUNDING = 1e-6


class Pace:
    """At most ``max_fps`` looks a second of the source's clock: the first frame in each interval of it is due.

    That depends on nothing but the times of a frame and of the one before, so the same frames of a file are looked at,
    whatever the machine's speed, and whether or not a process had to begin again.
    """

    def __init__(self, max_fps: float | None = None) -> None:
        self._max_fps = max_fps

    @property
    def limited(self) -> bool:
        return self._max_fps is not None

    def interval(self, time_s: float) -> int:
        """The number of the interval that holds ``time_s``; every frame is in one of its own without a limit."""
        return math.floor(time_s * self._max_fps + _ROUNDING) if self._max_fps else -1

    def due(self, time_s: float, looked: int) -> bool:
        """Whether a frame is to be looked at; looked: the interval of the last that was, or had been passed."""
        return not self._max_fps or self.interval(time_s) != looked


class StillScene:
    """Tells whether one source's pictures look, in the region, like the one that was looked at last."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._seen: NDArray[np.uint8] | None = None
        self._seen_s = 0.0

    def still(self, image: I420, time_s: float) -> bool:
        """Whether nothing has moved since the last picture for which this said no; never for ``STILL_S_MAX``."""
        small = self._averaged(image)
        seen = self._seen
        if seen is not None and seen.shape == small.shape and 0 <= time_s - self._seen_s < STILL_S_MAX:
            changed = cv2.countNonZero(cv2.compare(cv2.absdiff(small, seen), _LEVELS_MIN, cv2.CMP_GE))
            if changed < _CELLS_MIN:
                return True
        self._seen, self._seen_s = small, time_s
        return False

    def _averaged(self, image: I420) -> NDArray[np.uint8]:
        """The region's luma in cells; what is left over at the right and below is less than a cell."""
        view = whole(image.layout.width, image.layout.height, self._region)
        columns, rows = max(view.width // _CELL, 1), max(view.height // _CELL, 1)
        luma = image.y[view.y0 : view.y0 + rows * _CELL, view.x0 : view.x0 + columns * _CELL]
        return np.asarray(cv2.resize(luma, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
