"""Text as small luma tiles, put together of letters that are drawn once."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPITAL_AT_SCALE_1 = 21
"""Height in pixels of a capital letter of that font at scale 1."""
_ENLARGED = 4
"""Letters are drawn so much larger and averaged down: at eight pixels the font's own smoothing is a blur."""


class Lettering:
    """Single lines of ASCII for pictures of one size; anything else becomes a question mark.

    Capitals are 1/60 of the picture's shorter side high, and at least 8 pixels: below that nobody can read them.
    """

    def __init__(self, width: int, height: int) -> None:
        self.capital_px = max(8, round(min(width, height) / 60))
        self.padding_px = max(2, self.capital_px // 3)
        self._stroke_px = max(1, round(self.capital_px / 9))
        self._letters: dict[str, NDArray[np.uint8]] = {}
        self._margin = np.zeros((self.tile_height, self.padding_px), np.uint8)

    @property
    def tile_height(self) -> int:
        """Of every tile, in pixels; even."""
        height = self.capital_px + 2 * self.padding_px + self._stroke_px
        return height + height % 2

    def tile(self, text: str, *, ink: int, paper: int) -> NDArray[np.uint8]:
        """``text`` in luma ``ink`` on luma ``paper``: (tile_height, even width) uint8."""
        cover = np.hstack([self._margin, *map(self._letter, text), self._margin])
        if cover.shape[1] % 2:
            cover = np.hstack([cover, self._margin[:, :1]])
        shades = np.linspace(paper, ink, 256).astype(np.uint8)
        tile: NDArray[np.uint8] = shades[cover]
        return tile

    def _letter(self, character: str) -> NDArray[np.uint8]:
        """How much of each pixel the letter covers, 0 to 255: (tile_height, width) uint8."""
        shown = character if " " <= character <= "~" else "?"
        if shown not in self._letters:
            self._letters[shown] = self._draw(shown)
        return self._letters[shown]

    def _draw(self, character: str) -> NDArray[np.uint8]:
        scale = _ENLARGED * self.capital_px / _CAPITAL_AT_SCALE_1
        thickness = round(1.15 * _ENLARGED * self._stroke_px)
        (advance, _), _ = cv2.getTextSize(character, _FONT, scale, 1)
        width = max(1, round(advance / _ENLARGED))
        large: NDArray[np.uint8] = np.zeros((_ENLARGED * self.tile_height, _ENLARGED * width), np.uint8)
        baseline = _ENLARGED * (self.padding_px + self.capital_px) + _ENLARGED * self._stroke_px // 2
        cv2.putText(large, character, (0, baseline), _FONT, scale, 255, thickness, cv2.LINE_AA)
        letter: NDArray[np.uint8] = cv2.resize(large, (width, self.tile_height), interpolation=cv2.INTER_AREA)
        return letter
