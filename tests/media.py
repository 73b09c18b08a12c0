"""Makes the videos and pictures that the tests need, odd ones above all."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
Yuv = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
Matrix = Literal["bt601", "bt709", "bt2020"]

RATE = 25
_LUMA: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}
_COLORSPACE = {"bt709": 1, "bt601": 6, "bt2020": 9}


def quadrants(width: int, height: int) -> Rgb:
    """(height, width, 3): red, green, blue and yellow, from the upper left by rows."""
    rgb = np.empty((height, width, 3), np.uint8)
    half_h, half_w = height // 2, width // 2
    rgb[:half_h, :half_w] = (200, 30, 30)
    rgb[:half_h, half_w:] = (30, 200, 30)
    rgb[half_h:, :half_w] = (30, 30, 200)
    rgb[half_h:, half_w:] = (220, 220, 60)
    return rgb


def corners(rgb: NDArray[Any]) -> NDArray[np.int64]:
    """(4, 3): the colours in the middle of the four quadrants."""
    h, w = rgb.shape[:2]
    return np.array([rgb[h * y // 4, w * x // 4] for y in (1, 3) for x in (1, 3)], np.int64)


def to_yuv(rgb: Rgb, matrix: Matrix = "bt601", full_range: bool = False) -> Yuv:
    """By the formulas of ITU-R BT.601, 709 and 2020: three planes of the size of the picture (4:4:4)."""
    kr, kb = _LUMA[matrix]
    r, g, b = (rgb[..., channel] / 255.0 for channel in range(3))
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    planes = (y * 255, 128 + u * 255, 128 + v * 255) if full_range else (16 + 219 * y, 128 + 224 * u, 128 + 224 * v)
    first, second, third = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes)
    return first, second, third


def to_rgb(yuv: Sequence[NDArray[np.uint8]], matrix: Matrix, full_range: bool) -> NDArray[np.int64]:
    """The way back from 4:2:0 planes, chroma repeated: (h, w, 3)."""
    height, width = yuv[0].shape
    black, luma_range, chroma_range = (0, 255, 255) if full_range else (16, 219, 224)
    y = (yuv[0].astype(np.float64) - black) / luma_range
    u, v = ((p.repeat(2, 0).repeat(2, 1)[:height, :width].astype(np.float64) - 128) / chroma_range for p in yuv[1:])
    kr, kb = _LUMA[matrix]
    r, b = y + v * (2 - 2 * kr), y + u * (2 - 2 * kb)
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    rgb: NDArray[np.int64] = np.rint(np.clip(np.stack([r, g, b], -1), 0, 1) * 255).astype(np.int64)
    return rgb


def moving(index: int, width: int = 64, height: int = 48) -> Yuv:
    """A picture that no other index has: 4:2:0 planes with a ramp that moves and a luma that says ``index``."""
    ramp = np.add.outer(np.arange(height), np.arange(width)) * 2 + index * 5
    chroma = ((height + 1) // 2, (width + 1) // 2)
    u = np.full(chroma, 60 + index % 120, np.uint8)
    return (ramp % 220 + 16).astype(np.uint8), u, np.full(chroma, 200 - index % 90, np.uint8)


def frame_of(planes: Sequence[NDArray[Any]], pix_fmt: str) -> av.VideoFrame:
    """A frame with these samples, none of them touched by a conversion; 10-bit formats take them shifted up by two."""
    height, width = planes[0].shape[:2]
    frame = av.VideoFrame(width, height, pix_fmt)
    for samples, plane in zip(planes, frame.planes, strict=True):
        lines = samples.reshape(samples.shape[0], -1)
        if "10" in pix_fmt:
            lines = (lines.astype("<u2") << 2).view(np.uint8)
        target = np.frombuffer(cast("memoryview[int]", plane), np.uint8).reshape(-1, plane.line_size)
        target[: lines.shape[0], : lines.shape[1]] = lines
    return frame


def write_video(
    path: Path,
    frames: Iterable[av.VideoFrame],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = RATE,
    pts: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    options: Mapping[str, str] | None = None,
    muxer: Mapping[str, str] | None = None,
    format_: str | None = None,
    matrix: Matrix | None = None,
    color_range: int = 0,
    sample_aspect: Fraction | None = None,
    metadata: Mapping[str, str] | None = None,
    gop: int = 12,
) -> Path:
    """Encodes ``frames``; libx264 does so without any loss unless ``options`` say otherwise."""
    with av.open(str(path), "w", format=format_, options=dict(muxer or {})) as container:
        container.metadata.update(metadata or {})
        stream: VideoStream | None = None
        for index, frame in enumerate(frames):
            if stream is None:
                stream = cast("VideoStream", container.add_stream(codec, rate=rate))
                lossless = {"qp": "0", "preset": "ultrafast"} if codec.startswith("libx264") else {}
                stream.options = {**lossless, **(options or {})}
                context = stream.codec_context
                context.width, context.height, context.pix_fmt, context.thread_count = (
                    frame.width, frame.height, pix_fmt, 1,
                )  # fmt: skip
                context.color_range, context.gop_size = color_range, gop
                if matrix:
                    context.colorspace = _COLORSPACE[matrix]
                if sample_aspect:
                    context.sample_aspect_ratio = sample_aspect
                if time_base:
                    context.time_base = time_base
            frame.pts = index if pts is None else pts[index]
            frame.time_base = time_base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return path


def write_moving(path: Path, count: int, width: int = 64, height: int = 48, **how: Any) -> Path:
    """``count`` pictures of ``moving``, by ``write_video``."""
    return write_video(path, (frame_of(moving(i, width, height), "yuv420p") for i in range(count)), **how)


def write_picture(path: Path, rgb: Rgb, pix_fmt: str = "rgb24", codec: str = "png") -> Path:
    """One picture file without a container."""
    encoder = av.CodecContext.create(codec, "w")
    frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
    if pix_fmt != "rgb24":
        frame = frame_of(
            [plane[::step, ::step] for plane, step in zip(to_yuv(rgb, full_range=True), (1, 2, 2), strict=True)],
            pix_fmt,
        )
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, pix_fmt  # type: ignore[attr-defined]
    encoder.time_base = Fraction(1, RATE)
    frame.pts = 0
    packets = [*encoder.encode(frame), *encoder.encode(None)]  # type: ignore[attr-defined]
    path.write_bytes(b"".join(bytes(packet) for packet in packets))
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Writes the turn of an mp4's only track into its header: what a phone that is held upright records."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd")
    version = data[at + 4]
    matrix = at + 4 + (52 if version else 40)
    old = struct.unpack_from(">9i", data, matrix)
    assert (old[0], old[8]) == (0x10000, 0x40000000), "that is no track header with an upright matrix"
    struct.pack_into(">9i", data, matrix, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def set_exif_orientation(path: Path, orientation: int) -> None:
    """Gives a JPEG the EXIF tag by which cameras say how they were held."""
    tiff = struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    data = path.read_bytes()
    path.write_bytes(data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:])


def truncated(path: Path, share: float) -> Path:
    """Beside ``path``, the first ``share`` of its bytes."""
    data = path.read_bytes()
    target = path.with_stem(f"{path.stem}-cut")
    target.write_bytes(data[: int(len(data) * share)])
    return target


def damaged(path: Path, at: float, count: int) -> Path:
    """Beside ``path``, the same with ``count`` bytes overwritten, from the share ``at`` of its length on."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * at)
    data[start : start + count] = b"\xa5" * count
    target = path.with_stem(f"{path.stem}-damaged")
    target.write_bytes(data)
    return target
