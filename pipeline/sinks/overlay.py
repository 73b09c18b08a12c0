"""Draws what inference says on the planes of one frame: no other pixel format, no pass over the whole picture.

Everything lies on even coordinates, so that a line's colour in the half-size chroma planes ends where its luma ends.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FrameExpired
from pipeline.sinks.blur import Blurred, FaceBlur
from pipeline.sinks.colour import Colour, yuv
from pipeline.sinks.lettering import Lettering
from pipeline.types import I420, Layout, Result, Track

_CLASS_RGB = {"mask": (0, 255, 0), "no_mask": (255, 0, 0)}
_OTHER_RGB = (255, 190, 0)
_CORNER_RGB = (0, 0, 0)
_CARRIED_LUMA = 0.35
"""The label of a face that was not looked for in this frame is darker, and only the corners of its box are drawn."""
_TILES_MAX = 512
CAUGHT_UP_FRAMES = 128
"""More than a second of any camera."""


@dataclass(frozen=True, slots=True)
class _Tile:
    luma: NDArray[np.uint8]
    colour: Colour


class Overlay:
    """Boxes, labels and scores of the faces; the source's name, the wall clock and the stream's clock in a corner.

    labels: the model's class names by class id; "mask" is green and "no_mask" red, as AIZOO draws them.
    blurred: whose faces are made unrecognisable before anything is drawn.
    """

    def __init__(self, layout: Layout, source_name: str, labels: Sequence[str], blurred: Blurred = "none") -> None:
        self._layout = layout
        self._source_name = source_name
        self._labels = tuple(labels)
        self._blur = FaceBlur(blurred, labels)
        self._drawn = -1
        self._line_px = 2 * max(1, round(min(layout.width, layout.height) / 480))
        self._lettering = Lettering(layout.width, layout.height)
        self._black = yuv((0, 0, 0), layout)
        self._white_luma = yuv((255, 255, 255), layout).y
        self._colours = [yuv(_CLASS_RGB.get(label, _OTHER_RGB), layout) for label in self._labels]
        self._other = yuv(_OTHER_RGB, layout)
        self._tiles: dict[tuple[int, int, bool], _Tile] = {}
        self._wall = ("", self._text_tile(" ", self._black))
        self._stream = self._wall

    def catch_up(self, seq: int, result_of: Callable[[int], Result]) -> None:
        """Takes notice of the frames before ``seq`` that were not drawn; before that one is.

        Who was lost just before somebody begins to look is hidden for them as well. result_of: raises ``FrameExpired``
        for a result that is not kept any more.
        """
        if self._blur.hides:
            for missed in range(max(self._drawn + 1, seq - CAUGHT_UP_FRAMES), seq):
                with contextlib.suppress(FrameExpired):
                    self._blur.follow(result_of(missed))

    def draw(self, image: I420, result: Result) -> None:
        """Draws on ``image`` (of the overlay's layout) in place; frames come in order."""
        self.hide(image, result)
        self.mark(image, result)

    def hide(self, image: I420, result: Result) -> None:
        """What must not leave the machine; the first half of ``draw``."""
        self._blur.draw(image, result)
        self._drawn = result.frame.seq

    def mark(self, image: I420, result: Result) -> None:
        """Boxes, labels, clocks; the second half of ``draw``."""
        for track in result.tracks:
            self.draw_track(image, track)
        self._draw_corner(image, result)

    def draw_track(self, image: I420, track: Track) -> None:
        """One face: box, label and score."""
        x0, y0, x1, y1 = track.xyxy
        line, layout = self._line_px, self._layout
        # whatever is not a number compares as false
        if not (x0 < x1 and y0 < y1 and x1 > 0 and y1 > 0 and x0 < layout.width and y0 < layout.height):
            return
        # the line lies around the box, not on the face
        left, top = _down_to_even(max(0.0, x0) - line), _down_to_even(max(0.0, y0) - line)
        left, top = max(0, min(left, layout.width - 1)), max(0, min(top, layout.height - 1))
        right = min(layout.width, _down_to_even(min(x1, layout.width) + 1) + line)
        bottom = min(layout.height, _down_to_even(min(y1, layout.height) + 1) + line)
        colour = self._colour(track.class_id)
        if track.detected:
            _frame(image, left, top, right, bottom, line, colour)
        else:
            _corners(image, left, top, right, bottom, line, colour)
        tile = self._label(track)
        height, width = tile.luma.shape
        over = top - height
        label_left = min(left, max(0, _down_to_even(layout.width - width)))
        _blit(
            image, label_left, over if over >= 0 else min(bottom, max(0, _down_to_even(layout.height - height))), tile
        )

    def _draw_corner(self, image: I420, result: Result) -> None:
        frame = result.frame
        wall = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(frame.wall_ns // 1_000_000_000))
        if self._wall[0] != wall:
            self._wall = (wall, self._text_tile(f"{self._source_name} {wall}", self._black))
        stream = _clock(frame.time_s) + (" damaged" if result.reason == "corrupt" else "")
        if self._stream[0] != stream:
            self._stream = (stream, self._text_tile(stream, self._black))
        first, second = self._wall[1], self._stream[1]
        _blit(image, 0, 0, first)
        height, width = first.luma.shape
        beside = width + second.luma.shape[1] <= self._layout.width
        _blit(image, width if beside else 0, 0 if beside else height, second)

    def _colour(self, class_id: int) -> Colour:
        return self._colours[class_id] if 0 <= class_id < len(self._colours) else self._other

    def _label(self, track: Track) -> _Tile:
        percent = round(100 * min(1.0, max(0.0, track.confidence)))
        key = (track.class_id, percent, track.detected)
        tile = self._tiles.get(key)
        if tile is None:
            if len(self._tiles) >= _TILES_MAX:
                self._tiles.clear()
            known = 0 <= track.class_id < len(self._labels)
            name = self._labels[track.class_id].replace("_", " ") if known else f"class {track.class_id}"
            colour = self._colour(track.class_id)
            if not track.detected:
                colour = colour._replace(y=round(self._black.y + _CARRIED_LUMA * (colour.y - self._black.y)))
            tile = self._tiles[key] = self._text_tile(f"{name} {percent / 100:.2f}", colour)
        return tile

    def _text_tile(self, text: str, paper: Colour) -> _Tile:
        ink = self._black.y if paper.y > 128 else self._white_luma
        return _Tile(self._lettering.tile(text, ink=ink, paper=paper.y), paper)


def _down_to_even(pixels: float) -> int:
    return int(pixels) // 2 * 2


def _clock(time_s: float) -> str:
    """Seconds as h:mm:ss.t, rounded down."""
    tenths = int(time_s * 10 + 1e-6)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"


def _fill(image: I420, left: int, top: int, right: int, bottom: int, colour: Colour) -> None:
    """One rectangle; left and top are even and not negative."""
    image.y[top:bottom, left:right] = colour.y
    rows, columns = slice(top // 2, (bottom + 1) // 2), slice(left // 2, (right + 1) // 2)
    image.u[rows, columns] = colour.u
    image.v[rows, columns] = colour.v


def _frame(image: I420, left: int, top: int, right: int, bottom: int, line: int, colour: Colour) -> None:
    low, far = max(top, _down_to_even(bottom - line)), max(left, _down_to_even(right - line))
    _fill(image, left, top, right, top + line, colour)
    _fill(image, left, low, right, bottom, colour)
    _fill(image, left, top, left + line, bottom, colour)
    _fill(image, far, top, right, bottom, colour)


def _corners(image: I420, left: int, top: int, right: int, bottom: int, line: int, colour: Colour) -> None:
    low, far = max(top, _down_to_even(bottom - line)), max(left, _down_to_even(right - line))
    across, down = (right - left) // 4, (bottom - top) // 4
    for row in (top, low):
        _fill(image, left, row, left + across, row + line, colour)
        _fill(image, _down_to_even(right - across), row, right, row + line, colour)
    for column in (left, far):
        _fill(image, column, top, column + line, top + down, colour)
        _fill(image, column, _down_to_even(bottom - down), column + line, bottom, colour)


def _blit(image: I420, left: int, top: int, tile: _Tile) -> None:
    """Puts a tile at an even place; what sticks out is cut off."""
    height, width = tile.luma.shape
    target = image.y[top : top + height, left : left + width]
    target[:] = tile.luma[: target.shape[0], : target.shape[1]]
    rows, columns = slice(top // 2, (top + height) // 2), slice(left // 2, (left + width) // 2)
    image.u[rows, columns] = tile.colour.u
    image.v[rows, columns] = tile.colour.v
