"""Pictures to the network's input tensor; the only place that knows the input's size.

Video goes straight from its planes: each plane is averaged down to the input's size on its own, and only the small
planes are converted to RGB, so no step but the averaging ever touches a whole frame. The averaging is swscale's
``AREA``: exact up to rounding, and several times faster here than ``cv2.resize(INTER_AREA)``, whose fast path needs
whole-number factors.
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
        self._mean = np.array(spec.mean, np.float64)
        self._std = np.array(spec.std, np.float64)
        self._local = threading.local()
        self._conversions: dict[tuple[Matrix, bool], ToRgb] = {}

    def from_i420(self, image: I420) -> NDArray[np.float32]:
        """(1, 3, height, width) float32 from a video frame; RGB is limited to 0..255 before it is scaled."""
        scratch = self._scratch()
        for plane, small in zip((image.y, image.u, image.v), scratch.planes, strict=True):
            np.copyto(small, self._shrink(plane, scratch))
        y, u, v = scratch.planes
        conversion = self._conversion(image.layout)
        gain, offset = conversion.gain, conversion.offset
        red, green, blue = scratch.tensor[0]
        cv2.addWeighted(y, gain[0, 0], v, gain[0, 2], offset[0], dst=red)
        cv2.addWeighted(y, gain[1, 0], u, gain[1, 1], offset[1], dst=green)
        cv2.scaleAdd(v, gain[1, 2], green, dst=green)
        cv2.addWeighted(y, gain[2, 0], u, gain[2, 1], offset[2], dst=blue)
        self._limit(scratch.tensor[0])
        return scratch.tensor

    def from_rgb(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(1, 3, height, width) float32 from a picture of (h, w, 3) uint8 RGB."""
        if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
            raise ValueError(f"a picture is (h, w, 3) uint8 RGB, not {image.shape} {image.dtype}")
        spec, scratch = self._spec, self._scratch()
        shrinks = image.shape[0] >= spec.height and image.shape[1] >= spec.width
        how = cv2.INTER_AREA if self._resize == "area" and shrinks else cv2.INTER_LINEAR
        small = cv2.resize(image, (spec.width, spec.height), interpolation=how)
        for channel in range(3):
            scale = 1 / self._std[channel]
            cv2.addWeighted(
                small[..., channel], scale, small[..., channel], 0, -self._mean[channel] * scale,
                dst=scratch.tensor[0, channel], dtype=cv2.CV_32F,
            )  # fmt: skip
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

    def _conversion(self, layout: Layout) -> ToRgb:
        """Planes to scaled tensor values in one step: matrix, range, mean and std together."""
        key = (layout.matrix, layout.full_range)
        known = self._conversions.get(key)
        if known is None:
            rgb = to_rgb(layout.matrix, layout.full_range)
            known = ToRgb(rgb.gain / self._std[:, None], (rgb.offset - self._mean) / self._std)
            self._conversions[key] = known
        return known

    def _limit(self, channels: NDArray[np.float32]) -> None:
        """Limits each channel of (3, h, w) to what 0..255 is scaled to, in place."""
        for channel, mean, std in zip(channels, self._mean, self._std, strict=True):
            cv2.threshold(channel, (255 - mean) / std, 0, cv2.THRESH_TRUNC, dst=channel)
            if mean == 0:
                cv2.threshold(channel, 0, 0, cv2.THRESH_TOZERO, dst=channel)
            else:
                np.maximum(channel, np.float32(-mean / std), out=channel)

    def _scratch(self) -> _Scratch:
        scratch: _Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = _Scratch(self._spec)
        return scratch


class _Scratch:
    """What one thread works in: the small planes, the tensor, and a scaler for each size it has met lately."""

    def __init__(self, spec: InputSpec) -> None:
        self.planes = np.empty((3, spec.height, spec.width), np.float32)
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
