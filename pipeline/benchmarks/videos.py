"""Videos to measure on: textured, moving, as a camera would send them, and the same on every machine.

The camera pans over a large canvas of smooth structure and fine grain, some patches move on their own ways, and every
frame carries a little sensor noise. Where the demo clip is there, its faces are among the patches, so that tracking
and drawing have something to do.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.resources import data_dir, user_models_dir
from pipeline.types import I420, Layout

FPS = 25
KBIT_PER_MEGAPIXEL = 4000
"""Of a 25 fps camera at good quality: 3.7 Mbit/s at 720p, 8.3 at 1080p."""
SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}

_VERSION = 1
_SEED = 20200202
_MARGIN = 256
_NOISES, _NOISE_SIGMA = 8, 2.0
_SHAPES = 5
_DEMO_FRAMES = 60

Plane = NDArray[np.uint8]

log = logging.getLogger(__name__)


def cache_dir() -> Path:
    return user_models_dir().parent / "bench"


def bench_video(size: str, frames: int, directory: Path | None = None) -> Path:
    """The video of that size ("720p") with so many frames; made once, then found again in ``directory``."""
    demo = data_dir("config") / "demo" / "demo.mp4"
    mark = hashlib.sha256(demo.read_bytes()).hexdigest()[:8] if demo.is_file() else "no-demo"
    directory = directory or cache_dir()
    path = directory / f"bench-{size}-{frames}-v{_VERSION}-{mark}.mp4"
    if not path.is_file():
        directory.mkdir(parents=True, exist_ok=True)
        log.info("making a test video of %d frames: %s", frames, path)
        unfinished = path.with_suffix(f".{os.getpid()}.part")
        try:
            write(unfinished, Layout(*SIZES[size], matrix="bt709"), frames, demo if demo.is_file() else None)
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)
    return path


def write(path: Path, layout: Layout, frames: int, demo: Path | None = None) -> None:
    """H.264 as a camera makes it: constant rate, no B-frames, a keyframe every two seconds."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = layout.width, layout.height, "yuv420p"
        stream.bit_rate = round(KBIT_PER_MEGAPIXEL * layout.width * layout.height / 1000)
        stream.gop_size, stream.max_b_frames = 2 * FPS, 0
        stream.codec_context.thread_count = 1  # the same bytes whatever the machine has
        stream.options = {"preset": "superfast"}
        frame = av.VideoFrame(layout.width, layout.height, "yuv420p")
        frame.time_base = Fraction(1, FPS)
        target = _planes_of(frame, layout)
        for number, image in enumerate(scene(layout, frames, demo)):
            image.copy_to(target)
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _planes_of(frame: av.VideoFrame, layout: Layout) -> I420:
    planes = []
    for plane in frame.planes:
        memory = np.frombuffer(memoryview(plane), np.uint8, plane.line_size * plane.height)
        planes.append(memory.reshape(plane.height, plane.line_size)[:, : plane.width])
    return I420(planes[0], planes[1], planes[2], layout)


def scene(layout: Layout, frames: int, demo: Path | None = None) -> Iterator[I420]:
    """The pictures; each is good until the next one."""
    random = np.random.default_rng(_SEED)
    canvas = _canvas(layout, random)
    noises = [_noise(layout, random) for _ in range(_NOISES)]
    patches = [_shape(index, layout, random) for index in range(_SHAPES)]
    faces = _faces(demo, layout) if demo else []
    image = I420.empty(layout)
    for number in range(frames):
        _crop(canvas, image, number)
        for patch in patches:
            _paste(image, patch.images[0], patch.way(number, layout))
        for patch in faces:
            _paste(image, patch.images[number % len(patch.images)], patch.way(number, layout))
        cv2.add(image.y, noises[number * 5 % _NOISES], dst=image.y, dtype=cv2.CV_8U)
        yield image


@dataclass(frozen=True, slots=True)
class _Patch:
    """Something that moves: its pictures in turn, and where it goes (a Lissajous figure)."""

    images: tuple[I420, ...]
    periods_s: tuple[float, float]
    phases: tuple[float, float]

    def way(self, number: int, layout: Layout) -> tuple[int, int]:
        """Left and top, even, so that the picture is whole within the frame."""
        size = self.images[0].layout
        rooms = (layout.width - size.width, layout.height - size.height)
        turns = (number / FPS / period + phase for period, phase in zip(self.periods_s, self.phases, strict=True))
        left, top = (
            round(room * (1 + math.sin(2 * math.pi * t)) / 4) * 2 for room, t in zip(rooms, turns, strict=True)
        )
        return min(left, rooms[0] // 2 * 2), min(top, rooms[1] // 2 * 2)


def _swing(room: int, turns: float) -> int:
    """An even number of 0..room that goes there and back once a turn."""
    return min(round(room * (1 + math.sin(2 * math.pi * turns)) / 4) * 2, room // 2 * 2)


def _canvas(layout: Layout, random: np.random.Generator) -> I420:
    """What the camera pans over: structure at several scales, and colours that change slowly."""
    large = Layout(layout.width + _MARGIN, layout.height + _MARGIN, layout.matrix)
    luma = np.full((large.height, large.width), 118.0, np.float32)
    for cell, amplitude in ((160, 45.0), (40, 26.0), (10, 16.0), (3, 9.0)):
        luma += amplitude * _smooth(large.width, large.height, cell, random)
    chroma = [128 + 24 * _smooth(large.chroma_width, large.chroma_height, 90, random) for _ in range(2)]
    y, u, v = (np.clip(plane, 16, 235).astype(np.uint8) for plane in (luma, *chroma))
    return I420(y, u, v, large)


def _smooth(width: int, height: int, cell: int, random: np.random.Generator) -> NDArray[np.float32]:
    """(height, width) float32 in -1..1 that changes over ``cell`` pixels."""
    coarse = random.uniform(-1, 1, (height // cell + 3, width // cell + 3)).astype(np.float32)
    fine = cv2.resize(coarse, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
    return np.asarray(fine[:height, :width], np.float32)


def _noise(layout: Layout, random: np.random.Generator) -> NDArray[np.int16]:
    noise: NDArray[np.float64] = random.normal(0, _NOISE_SIGMA, (layout.height, layout.width))
    return np.asarray(np.rint(noise), np.int16)


def _shape(index: int, layout: Layout, random: np.random.Generator) -> _Patch:
    """A textured rectangle, the size of a person far or near."""
    height = round(layout.height * (0.2 + 0.08 * index)) // 2 * 2
    size = Layout(height // 4 * 2, height, layout.matrix)
    base = float(random.uniform(60, 190))
    luma = base + 30 * _smooth(size.width, size.height, 8, random) + 10 * _smooth(size.width, size.height, 2, random)
    image = I420.empty(size)
    image.y[:] = np.clip(luma, 16, 235).astype(np.uint8)
    image.u[:], image.v[:] = random.integers(90, 166, 2).tolist()
    periods = (7.0 + 3.1 * index, 9.0 + 2.3 * index)
    return _Patch((image,), periods, (0.13 * index, 0.29 * index))


def _faces(demo: Path, layout: Layout) -> list[_Patch]:
    """Two copies of the demo clip's first seconds, a third and a half as high as the picture."""
    with av.open(str(demo)) as container:
        frames = [frame for _, frame in zip(range(_DEMO_FRAMES), container.decode(video=0), strict=False)]
    patches = []
    for index, share in enumerate((1 / 3, 1 / 2)):
        height = round(layout.height * share) // 2 * 2
        width = min(layout.width, round(height * frames[0].width / frames[0].height)) // 2 * 2
        size = Layout(width, height, layout.matrix)
        images = []
        for frame in frames:
            image = I420.empty(size)
            small = frame.reformat(width, height, "yuv420p", interpolation="AREA", threads=1)
            _planes_of(small, size).copy_to(image)
            images.append(image)
        there_and_back = tuple(images + images[::-1])
        patches.append(_Patch(there_and_back, (23.0 + 8 * index, 17.0 + 6 * index), (0.1 + 0.5 * index, 0.4 * index)))
    return patches


def _crop(canvas: I420, image: I420, number: int) -> None:
    """The part of the canvas that the camera sees, panning there and back."""
    turns = number / FPS / 20
    left, top = _swing(_MARGIN, turns), _swing(_MARGIN, 1.3 * turns + 0.25)
    height, width = image.y.shape
    image.y[:] = canvas.y[top : top + height, left : left + width]
    rows, columns = image.u.shape
    image.u[:] = canvas.u[top // 2 : top // 2 + rows, left // 2 : left // 2 + columns]
    image.v[:] = canvas.v[top // 2 : top // 2 + rows, left // 2 : left // 2 + columns]


def _paste(image: I420, patch: I420, place: tuple[int, int]) -> None:
    """Puts ``patch`` at (left, top), both even."""
    left, top = place
    height, width = patch.y.shape
    image.y[top : top + height, left : left + width] = patch.y
    rows, columns = slice(top // 2, top // 2 + patch.u.shape[0]), slice(left // 2, left // 2 + patch.u.shape[1])
    image.u[rows, columns] = patch.u
    image.v[rows, columns] = patch.v
