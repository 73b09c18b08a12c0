"""Text as small luma tiles, drawn once and blitted often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPITAL_AT_SCALE_1 = 21
"""Height in pixels of a capital letter of that font at scale 1."""


class Lettering:
    """Renders single lines of ASCII for pictures of one size; text is cut to at most ``width_max`` pixels.

    Capitals are 1/60 of the picture's shorter side high, and at least 8 pixels: below that nobody can read them.
    """

    def __init__(self, width: int, height: int) -> None:
        self.capital_px = max(8, round(min(width, height) / 60))
        self.padding_px = max(2, self.capital_px // 3)
        self._scale = self.capital_px / _CAPITAL_AT_SCALE_1
        self._stroke_px = max(1, round(self.capital_px / 9))
        self._width_max = width

    @property
    def tile_height(self) -> int:
        """Of every tile, in pixels; even."""
        return _even(self.capital_px + 2 * self.padding_px + self._stroke_px)

    def tile(self, text: str, *, ink: int, paper: int) -> NDArray[np.uint8]:
        """``text`` in luma ``ink`` on luma ``paper``: (tile_height, even width) uint8."""
        text = text.encode("ascii", "replace").decode()
        (text_width, _), _ = cv2.getTextSize(text, _FONT, self._scale, self._stroke_px)
        shape = (self.tile_height, min(_even(text_width + 2 * self.padding_px), _even(self._width_max)))
        # drawn at four times the size and averaged down: at eight pixels the font's own smoothing is a blur
        large: NDArray[Any] = np.zeros((4 * shape[0], 4 * shape[1]), np.uint8)
        origin = (4 * self.padding_px, 4 * (self.padding_px + self.capital_px) + 2 * self._stroke_px)
        cv2.putText(large, text, origin, _FONT, 4 * self._scale, 255, round(4.6 * self._stroke_px), cv2.LINE_AA)
        cover = cv2.resize(large, shape[::-1], interpolation=cv2.INTER_AREA).astype(np.int32)
        tile: NDArray[np.uint8] = (paper + (ink - paper) * cover // 255).astype(np.uint8)
        return tile


def _even(pixels: int) -> int:
    return pixels + pixels % 2
