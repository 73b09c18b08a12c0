"""Videos in which every frame says its number in its pixels, and how to read the numbers back after any encoder.

The number stands in a strip below the picture, as black and white squares: the overlay's clock is above, and nobody has
a face down there.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from numpy.typing import NDArray

from tests.media import RATE, Yuv, frame_of, moving, write_video

BITS, SQUARE = 12, 16
WIDTH, PICTURE_HEIGHT = 320, 180
HEIGHT = PICTURE_HEIGHT + 2 * SQUARE
_BLACK, _WHITE = 16, 235


class Numbered(NamedTuple):
    """One frame of a recording: the number in its pixels and its time in seconds."""

    number: int
    time_s: float


def write_numbered(
    path: Path,
    count: int,
    pictures: Iterable[Yuv] | None = None,
    *,
    first: int = 0,
    pts: Sequence[int] | None = None,
    rate: int = RATE,
    **how: Any,
) -> Path:
    """``count`` frames numbered from ``first`` over ``pictures`` (of any one size), or over a ramp that moves.

    pts: times in milliseconds, for a variable rate. how: for ``write_video``.
    """
    backgrounds = iter(pictures) if pictures is not None else (moving(i, WIDTH, PICTURE_HEIGHT) for i in range(count))
    frames = (frame_of(_with_number(next(backgrounds), number), "yuv420p") for number in range(first, first + count))
    time_base = Fraction(1, 1000) if pts is not None else None
    usual: dict[str, Any] = {"options": {"qp": "18"}, "gop": 25}
    return write_video(path, frames, rate=rate, pts=pts, time_base=time_base, **(usual | how))


def pictures_of(video: Path, width: int = WIDTH, height: int = PICTURE_HEIGHT) -> Iterator[Yuv]:
    """A video's pictures in another size, round and round."""
    while True:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                small: NDArray[np.uint8] = frame.reformat(width, height, "yuv420p", interpolation="AREA").to_ndarray()  # type: ignore[assignment]
                y, chroma = small[:height], small[height:].reshape(2, height // 2, width // 2)
                yield y, chroma[0], chroma[1]


def _with_number(picture: Yuv, number: int) -> Yuv:
    y, u, v = picture
    width = y.shape[1]
    strip = np.full((2 * SQUARE, width), _BLACK, np.uint8)
    for bit in range(BITS):
        if number >> bit & 1:
            strip[:, bit * SQUARE : (bit + 1) * SQUARE] = _WHITE
    strip[:, BITS * SQUARE : (BITS + 1) * SQUARE] = _WHITE  # so that a picture of something else is not taken for one
    grey = np.full((SQUARE, u.shape[1]), 128, np.uint8)
    return np.vstack([y, strip]), np.vstack([u, grey]), np.vstack([v, grey])


def number_in(luma: NDArray[np.uint8]) -> int:
    """The number in a decoded frame's luma; raises ``ValueError`` where its pixels are not clearly one."""
    middle = luma[-SQUARE, SQUARE // 2 : (BITS + 2) * SQUARE : SQUARE].astype(int)
    bits = middle > (_BLACK + _WHITE) // 2
    unclear = np.minimum(abs(middle - _BLACK), abs(middle - _WHITE)).max()
    if unclear > 40 or not bits[BITS] or bits[BITS + 1]:
        raise ValueError(f"a frame without a readable number: {middle.tolist()}")
    return int(sum(1 << bit for bit in range(BITS) if bits[bit]))


def read_numbered(path: Path) -> list[Numbered]:
    """Every frame of a recording that can be decoded."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return [_read(stream, frame) for frame in container.decode(stream)]


def _read(stream: VideoStream, frame: av.VideoFrame) -> Numbered:
    assert frame.pts is not None
    assert stream.time_base is not None
    plane = frame.planes[0]
    luma = np.frombuffer(cast("memoryview[int]", plane), np.uint8).reshape(-1, plane.line_size)
    return Numbered(number_in(luma[: frame.height, : frame.width]), float(frame.pts * stream.time_base))


def complaints(path: Path) -> str:
    """What FFmpeg's own program says of a recording while it decodes all of it: nothing where it is whole."""
    if not shutil.which("ffmpeg"):
        pytest.skip("needs ffmpeg; install: apt-get install ffmpeg")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "null", "-"]
    said: str = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    return said
