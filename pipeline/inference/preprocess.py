"""Pictures to the network's input tensor; the only place that knows the input's size.

Video goes straight from its planes: each plane is averaged down to the input's size on its own, and only the small
planes become RGB (of 8 bits, which is what networks learn from), so no step but the averaging ever touches a whole
frame. The averaging is swscale's ``AREA``: exact up to rounding, and several times faster here than
``cv2.resize(INTER_AREA)``, whose fast path needs whole-number factors.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from pipeline.inference.model_card import InputSpec
from pipeline.types import I420, Layout, Matrix

Resize = Literal["area", "bilinear"]

_LUMA_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
"""Kr and Kb of each matrix (ITU-R BT.601, BT.709, BT.2020)."""

_GREEN_SCALE = 1.25
"""Chroma changes green by up to 158 levels either way (BT.601, limited range); a byte has room for 127 of these."""

_SCALERS_MAX = 8  # a scaler holds its tables for one size; sources of more sizes than this make new ones
_SWSCALE_SIDE_MIN = 16  # below it swscale's filters are longer than a row


@dataclass(frozen=True, slots=True)
class ToRgb:
    """R, G, B (0..255) = gain @ (Y, U, V) + offset. gain: (3, 3) float64, offset: (3,) float64."""

    gain: NDArray[np.float64]
    offset: NDArray[np.float64]


def to_rgb(matrix: Matrix, full_range: bool) -> ToRgb:
    """The conversion of 8-bit Y'CbCr (ITU-T H.273, equations for MatrixCoefficients and VideoFullRangeFlag)."""
    kr, kb = _LUMA_WEIGHTS[matrix]
    kg = 1 - kr - kb
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    gain = np.array(
        [
            [luma, 0, 2 * (1 - kr) * chroma],
            [luma, -2 * kb * (1 - kb) / kg * chroma, -2 * kr * (1 - kr) / kg * chroma],
            [luma, 2 * (1 - kb) * chroma, 0],
        ]
    )
    return ToRgb(gain, -gain @ np.array([black, 128.0, 128.0]))


class Preprocessor:
    """Makes input tensors. Several threads may use one; each has its own tensor, good until its next call."""

    def __init__(self, spec: InputSpec, resize: Resize = "area") -> None:
        self._spec = spec
        self._resize = resize
        self._scale = np.array([[[1 / std]] for std in spec.std], np.float32)
        self._offset = np.array([[[mean / std]] for mean, std in zip(spec.mean, spec.std, strict=True)], np.float32)
        self._local = threading.local()
        self._conversions: dict[tuple[Matrix, bool], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def from_i420(self, image: I420) -> NDArray[np.float32]:
        """(1, 3, height, width) float32 from a video frame, by way of 8-bit RGB."""
        scratch = self._scratch()
        y, u, v = (self._shrink(plane, scratch) for plane in (image.y, image.u, image.v))
        gain, offset = self._conversion(image.layout)
        red, green, blue = scratch.rgb
        cv2.addWeighted(y, gain[0, 0], v, gain[0, 2], offset[0], dst=red)
        cv2.addWeighted(y, gain[2, 0], u, gain[2, 1], offset[2], dst=blue)
        # what chroma adds to green, as 8 bits of its own: halfway up, and scaled so that it always fits
        cv2.addWeighted(u, gain[1, 1] / _GREEN_SCALE, v, gain[1, 2] / _GREEN_SCALE, offset[3], dst=green)
        cv2.addWeighted(y, gain[1, 0], green, _GREEN_SCALE, offset[1], dst=green)
        return self._scaled(scratch.rgb, scratch)

    def from_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1, 3, height, width) float32 from a picture of (h, w, 3) uint8 RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise ValueError(f"a picture is (h, w, 3) uint8 RGB, not {image.shape} {image.dtype}")
        spec, scratch = self._spec, self._scratch()
        shrinks = image.shape[0] >= spec.height and image.shape[1] >= spec.width
        how = cv2.INTER_AREA if self._resize == "area" and shrinks else cv2.INTER_LINEAR
        small = cv2.resize(image, (spec.width, spec.height), interpolation=how)
        return self._scaled(small.transpose(2, 0, 1), scratch)

    def _scaled(self, rgb: NDArray[np.uint8], scratch: _Scratch) -> NDArray[np.float32]:
        """(3, height, width) uint8 → the tensor of the card's mean and std."""
        np.multiply(rgb, self._scale, out=scratch.tensor[0])
        if self._offset.any():
            np.subtract(scratch.tensor[0], self._offset, out=scratch.tensor[0])
        return scratch.tensor

    def to_source(self, xyxy: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
        """The way back: (n, 4) as fractions of the network's picture → pixels of a source of ``width`` x ``height``."""
        return xyxy * np.array([width, height, width, height], np.float32)

    def _shrink(self, plane: NDArray[np.uint8], scratch: _Scratch) -> NDArray[np.uint8]:
        """(h, w) uint8 → (height, width) uint8; sides that grow are interpolated."""
        spec = self._spec
        if self._resize == "bilinear" or min(plane.shape) < _SWSCALE_SIDE_MIN:
            small = cv2.resize(plane, (spec.width, spec.height), interpolation=cv2.INTER_LINEAR)
            return np.asarray(small, np.uint8)
        if plane.strides[1] != 1 or plane.strides[0] < plane.shape[1]:
            plane = np.ascontiguousarray(plane)
        shrinks = plane.shape[0] >= spec.height and plane.shape[1] >= spec.width
        # swscale's BILINEAR widens its filter where a side shrinks, so it does not alias there either
        frame = scratch.scaler(plane.shape).reformat(
            av.VideoFrame.from_numpy_buffer(plane, "gray"),
            spec.width,
            spec.height,
            "gray",
            interpolation="AREA" if shrinks else "BILINEAR",
            threads=1,
        )
        out = frame.planes[0]
        rows = np.frombuffer(memoryview(out), np.uint8, out.line_size * spec.height)
        small = rows.reshape(spec.height, out.line_size)[:, : spec.width]
        return np.asarray(small, np.uint8)

    def _conversion(self, layout: Layout) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Gain (3, 3) of Y, U, V in R, G, B, and four offsets: of R, G, B, and of what chroma adds to green."""
        key = (layout.matrix, layout.full_range)
        known = self._conversions.get(key)
        if known is None:
            rgb = to_rgb(layout.matrix, layout.full_range)
            middle = 128 - 128 * (rgb.gain[1, 1] + rgb.gain[1, 2]) / _GREEN_SCALE
            red, green, blue = rgb.offset
            offset = np.array([red, green - _GREEN_SCALE * middle, blue, middle])
            known = self._conversions[key] = rgb.gain, offset
        return known

    def _scratch(self) -> _Scratch:
        scratch: _Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = _Scratch(self._spec)
        return scratch


class _Scratch:
    """What one thread works in: the small picture, the tensor, and a scaler for each size it has met lately."""

    def __init__(self, spec: InputSpec) -> None:
        self.rgb = np.empty((3, spec.height, spec.width), np.uint8)
        self.tensor = np.empty((1, 3, spec.height, spec.width), np.float32)
        self._scalers: OrderedDict[tuple[Any, ...], VideoReformatter] = OrderedDict()

    def scaler(self, shape: tuple[Any, ...]) -> VideoReformatter:
        scaler = self._scalers.get(shape)
        if scaler is None:
            scaler = self._scalers[shape] = VideoReformatter()
            if len(self._scalers) > _SCALERS_MAX:
                self._scalers.popitem(last=False)
        else:
            self._scalers.move_to_end(shape)
        return scaler
