"""From whatever a decoder gives to I420: views where the picture already is 8-bit 4:2:0, one conversion elsewhere."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, cast

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from av.video.format import VideoFormat
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.types import I420, Layout, Matrix

_log = logging.getLogger(__name__)

_PLANAR_420 = frozenset({"yuv420p", "yuvj420p", "yuva420p"})
_LIMITED, _FULL = 1, 2  # AVColorRange
_MATRIX: Final[dict[int, Matrix]] = {  # AVColorSpace; SMPTE 240M is BT.709 within a code value or two
    1: "bt709", 4: "bt601", 5: "bt601", 6: "bt601", 7: "bt709", 9: "bt2020", 10: "bt2020",
}  # fmt: skip
_SWSCALE_MATRIX: Final[dict[Matrix, int]] = {"bt709": 1, "bt601": 5, "bt2020": 9}
_HD_LINES = 720


@dataclass(frozen=True, slots=True)
class Turn:
    """How the stored picture must be turned to stand upright: transposed first, then mirrored."""

    transpose: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @classmethod
    def from_display_matrix(cls, matrix: bytes) -> Turn | None:
        """Reads a display matrix (nine int32, row by row); None where it is not made of quarter turns and mirrors."""
        a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32, 5))
        along, across = min(abs(a), abs(d)), min(abs(b), abs(c))
        if max(abs(b), abs(c)) * 100 < along:
            return cls(False, a < 0, d < 0)
        if max(abs(a), abs(d)) * 100 < across:
            return cls(True, c < 0, b < 0)
        return None

    def apply(self, plane: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w) uint8 to (h, w), or (w, h) where it transposes; one copy."""
        import cv2  # only the few files with such metadata need it

        if self.transpose and self.mirror_x != self.mirror_y:
            code = cv2.ROTATE_90_CLOCKWISE if self.mirror_x else cv2.ROTATE_90_COUNTERCLOCKWISE
            turned = cv2.rotate(plane, code)
        elif self.transpose:
            turned = cv2.transpose(plane[::-1, ::-1] if self.mirror_x else plane)
        else:
            turned = cv2.flip(plane, {(True, False): 1, (False, True): 0}.get((self.mirror_x, self.mirror_y), -1))
        return np.asarray(turned, np.uint8)


_UPRIGHT = Turn()
_QUARTER_TURNS = {0: _UPRIGHT, 90: Turn(True, False, True), 180: Turn(False, True, True), 270: Turn(True, True, False)}


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to do with every frame that looks like the last one."""

    stored: Layout
    shown: Layout
    turn: Turn
    direct: bool
    rgb: bool


class Converter:
    """Makes I420 pictures from decoded frames and remembers how, as long as the frames look the same."""

    def __init__(self) -> None:
        self._turn = _UPRIGHT
        self._rotation = 0
        self._key: tuple[object, ...] = ()
        self._plan: _Plan | None = None
        self._reformatter = VideoReformatter()
        self._told = False

    def convert(self, frame: av.VideoFrame, sample_aspect: Fraction | None) -> I420:
        """The frame as I420, upright; views into the frame's own memory where nothing has to change.

        sample_aspect: width to height of one stored pixel, None or 0 where unknown (square).
        """
        plan = self._plan_for(frame, sample_aspect)
        planes = frame.planes if plan.direct else self._scale(frame, plan)
        if any(plane.line_size < 0 for plane in planes[:3]):  # bottom-up: swscale lays it out anew, bit by bit the same
            planes = self._reformatter.reformat(
                self._reformatter.reformat(frame, format="nv12", threads=1), format="yuv420p", threads=1
            ).planes
        stored = plan.stored
        chroma = (stored.chroma_height, stored.chroma_width)
        y = _view(planes[0], stored.height, stored.width)
        u, v = (_view(plane, *chroma) for plane in planes[1:3])
        if plan.turn != _UPRIGHT:
            y, u, v = (plan.turn.apply(plane) for plane in (y, u, v))
        return I420(y, u, v, plan.shown)

    def stored(self, frame: av.VideoFrame, sample_aspect: Fraction | None) -> Layout:
        """The layout of the frame as it lies in the stream, before it is turned upright."""
        return self._plan_for(frame, sample_aspect).stored

    def _plan_for(self, frame: av.VideoFrame, sample_aspect: Fraction | None) -> _Plan:
        if self._plan is None or (frame.key_frame and frame.rotation != self._rotation):
            self._turn, self._rotation = self._read_turn(frame), frame.rotation
        format_ = frame.format
        key = (format_.name, frame.width, frame.height, frame.color_range, frame.colorspace, sample_aspect, self._turn)
        if self._plan is None or key != self._key:
            self._plan, self._key = _plan(frame, format_, sample_aspect, self._turn), key
        return self._plan

    def _scale(self, frame: av.VideoFrame, plan: _Plan) -> tuple[VideoPlane, ...]:
        matrix = _SWSCALE_MATRIX[plan.stored.matrix]
        range_ = _FULL if plan.stored.full_range else _LIMITED
        return self._reformatter.reformat(
            frame,
            format="yuv420p",
            src_colorspace=None if plan.rgb else matrix,
            dst_colorspace=matrix,
            src_color_range=_FULL if plan.rgb else range_,
            dst_color_range=range_,
            threads=1,
        ).planes

    def _read_turn(self, frame: av.VideoFrame) -> Turn:
        """Seldom: PyAV's ``side_data`` and its frame hold each other, and the picture's memory, until the next full
        garbage collection, which may be hundreds of key frames away.
        """
        turn: Turn | None
        try:
            side_data = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
        except ValueError:  # PyAV cannot list what else comes with the frame, such as EXIF: no telling mirrored ones
            turn = _QUARTER_TURNS.get(frame.rotation % 360)
        else:
            turn = Turn.from_display_matrix(bytes(side_data)) if side_data is not None else _UPRIGHT
        if turn is None and not self._told:
            self._told = True
            _log.warning("the rotation of %d degrees in the metadata is ignored: not a quarter turn", frame.rotation)
        return turn or _UPRIGHT


def _view(plane: VideoPlane, height: int, width: int) -> NDArray[np.uint8]:
    return np.frombuffer(cast("memoryview[int]", plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]


def _plan(frame: av.VideoFrame, format_: VideoFormat, sample_aspect: Fraction | None, turn: Turn) -> _Plan:
    rgb = format_.is_rgb or format_.has_palette
    matrix = _MATRIX.get(int(frame.colorspace)) or ("bt709" if frame.height >= _HD_LINES else "bt601")
    grey = len(format_.components) <= 2 and not rgb
    full_range = not rgb and (frame.color_range == _FULL or format_.name.startswith("yuvj") or grey)
    stored = Layout(frame.width, frame.height, matrix, full_range, _aspect(sample_aspect))
    shown = stored
    if turn.transpose:
        across, down = stored.sample_aspect
        shown = replace(stored, width=stored.height, height=stored.width, sample_aspect=(down, across))
    return _Plan(stored, shown, turn, format_.name in _PLANAR_420, rgb)


def _aspect(sample_aspect: Fraction | None) -> tuple[int, int]:
    if not sample_aspect or not Fraction(1, 20) <= sample_aspect <= 20:
        return (1, 1)
    return (sample_aspect.numerator, sample_aspect.denominator)
