"""A copy of one frame to draw on, and that copy as other programs take it: BGR pixels or a JPEG."""

from __future__ import annotations

from typing import cast

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from pipeline.types import I420, Layout, Matrix

JPEG_QUALITY = 80

_COLOURSPACES: dict[Matrix, Colorspace] = {
    "bt601": Colorspace.ITU601,
    "bt709": Colorspace.ITU709,
    "bt2020": Colorspace.BT2020,
}


class Canvas:
    """The planes of one picture of a layout, in memory that FFmpeg can convert without another copy."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._frame = av.VideoFrame(layout.width, layout.height, "yuv420p")
        # the arrays are views into the frame's memory and keep it alive
        y, u, v = (_plane(self._frame, index) for index in range(3))
        self.image = I420(y, u, v, layout)

    def bgr(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8, full range, by the matrix of the layout."""
        converted = self._frame.reformat(
            format="bgr24",
            src_colorspace=_COLOURSPACES[self.layout.matrix],
            src_color_range=ColorRange.JPEG if self.layout.full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
        return cast("NDArray[np.uint8]", converted.to_ndarray())

    def jpeg(self, quality: int = JPEG_QUALITY) -> bytes:
        """What stands on it now. quality: 1 to 100."""
        return encode_jpeg(self.bgr(), quality)


def encode_jpeg(bgr: NDArray[np.uint8], quality: int = JPEG_QUALITY) -> bytes:
    """(h, w, 3) BGR pixels as a JPEG."""
    _, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()


def _plane(frame: av.VideoFrame, index: int) -> NDArray[np.uint8]:
    plane = frame.planes[index]
    memory: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8, plane.line_size * plane.height)
    return memory.reshape(plane.height, plane.line_size)[:, : plane.width]
