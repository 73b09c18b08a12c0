"""How colours stand in a picture's planes, and the numbers by which a file says so."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.types import Layout, Matrix

_KR_KB: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


class Colour(NamedTuple):
    """8-bit luma and chroma."""

    y: int
    u: int
    v: int


class ColourCodes(NamedTuple):
    """The code points of ITU-T H.273."""

    primaries: int
    transfer: int
    matrix: int


_CODES: dict[Matrix, ColourCodes] = {
    "bt601": ColourCodes(6, 6, 6),
    "bt709": ColourCodes(1, 1, 1),
    "bt2020": ColourCodes(9, 14, 9),
}


def codes(layout: Layout) -> ColourCodes:
    return _CODES[layout.matrix]


def yuv(rgb: tuple[int, int, int], layout: Layout) -> Colour:
    """8-bit RGB (gamma-coded) to what the same colour is in pictures of ``layout`` (ITU-T H.273, eq. 38 to 43)."""
    kr, kb = _KR_KB[layout.matrix]
    r, g, b = (value / 255 for value in rgb)
    luma = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - luma) / (2 * (1 - kb)), (r - luma) / (2 * (1 - kr))
    offset, luma_steps, chroma_steps = (0, 255, 255) if layout.full_range else (16, 219, 224)
    y, u, v = offset + luma_steps * luma, 128 + chroma_steps * cb, 128 + chroma_steps * cr
    return Colour(*(min(255, max(0, round(value))) for value in (y, u, v)))
