from __future__ import annotations

import math
import subprocess
import sys
import threading
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.inference.model_card import InputSpec
from pipeline.inference.preprocess import Preprocessor
from pipeline.types import I420, Layout, Matrix

SQUARE = InputSpec(width=260, height=260)
WIDE = InputSpec(width=416, height=240, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))


def averaging(source: int, target: int) -> NDArray[np.float64]:
    """(target, source): the share of each source pixel in each target pixel."""
    weights = np.zeros((target, source))
    step = source / target
    for row in range(target):
        start, stop = row * step, (row + 1) * step
        for column in range(int(start), min(source, math.ceil(stop))):
            weights[row, column] = max(0.0, min(stop, column + 1) - max(start, column)) / step
    return weights


def average(plane: NDArray[Any], spec: InputSpec) -> NDArray[np.float64]:
    rows, columns = averaging(plane.shape[0], spec.height), averaging(plane.shape[1], spec.width)
    return np.asarray(rows @ plane.astype(np.float64) @ columns.T)


def scaled(rgb: NDArray[np.float64], spec: InputSpec) -> NDArray[np.float64]:
    """(3, h, w) RGB in 0..255 to tensor values."""
    return np.asarray((np.clip(rgb, 0, 255) - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None])


def reference(image: I420, spec: InputSpec) -> NDArray[np.float64]:
    """Exact area average of each plane, then the matrix as ITU-R BT.601 and BT.709 write it out."""
    y, u, v = (average(plane, spec) for plane in (image.y, image.u, image.v))
    kr, kb = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}[image.layout.matrix]
    if image.layout.full_range:
        luma, cb, cr = y / 255, (u - 128) / 255, (v - 128) / 255
    else:
        luma, cb, cr = (y - 16) / 219, (u - 128) / 224, (v - 128) / 224
    red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return scaled(255 * np.stack([red, green, blue]), spec)


def picture(width: int, height: int, *, seed: int = 0, **layout: Any) -> I420:
    """Texture of all frequencies, in every colour."""
    rng = np.random.default_rng(seed)
    image = I420.empty(Layout(width, height, **layout))
    for plane in (image.y, image.u, image.v):
        coarse = rng.integers(0, 256, (9, 16)).astype(np.uint8)
        smooth = cv2.resize(coarse, plane.shape[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        plane[:] = np.clip(smooth + rng.integers(-25, 26, plane.shape), 0, 255)
    return image


SIZES = [(1280, 720), (1920, 1080), (640, 528), (1279, 719), (853, 641), (2000, 521)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("spec", [SQUARE, WIDE], ids=["square", "wide"])
def test_video_is_averaged_exactly(size: tuple[int, int], spec: InputSpec) -> None:
    image = picture(*size)
    difference = np.abs(Preprocessor(spec).from_i420(image)[0] - reference(image, spec))
    level = 1 / np.array(spec.std)[:, None, None]  # one step of 8 bits
    if image.u.shape[0] >= spec.height and image.u.shape[1] >= spec.width:
        assert (difference.mean(axis=(1, 2)) < 0.7 * level.ravel()).all()
        assert (difference < 4 * level).all()
    else:  # chroma that is smaller than the input is interpolated
        assert (difference.mean(axis=(1, 2)) < 4 * level.ravel()).all()


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_no_colour_overflows(matrix: Matrix, full_range: bool) -> None:
    """Also those that no camera makes: each corner of Y, U and V as a stripe."""
    image = I420.empty(Layout(640, 528, matrix=matrix, full_range=full_range))
    for n, (plane, width) in enumerate(zip((image.y, image.u, image.v), (80, 40, 40), strict=True)):
        for stripe in range(8):
            plane[:, stripe * width : (stripe + 1) * width] = 255 * (stripe >> n & 1)
    difference = np.abs(Preprocessor(SQUARE).from_i420(image)[0] - reference(image, SQUARE)) * 255
    inside = [column for column in range(260) if 3 < column % 32.5 < 29]
    assert difference[..., inside].max() < 2.5


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_matrix_and_range_are_those_of_the_layout(matrix: Matrix, full_range: bool) -> None:
    image = picture(640, 528, matrix=matrix, full_range=full_range)
    difference = np.abs(Preprocessor(SQUARE).from_i420(image)[0] - reference(image, SQUARE))
    assert difference.mean() < 0.7 / 255


@pytest.mark.parametrize(
    ("yuv", "rgb"), [((16, 128, 128), (0, 0, 0)), ((235, 128, 128), (1, 1, 1)), ((81, 90, 240), (1, 0, 0))]
)
def test_known_colours(yuv: tuple[int, int, int], rgb: tuple[float, float, float]) -> None:
    image = I420.empty(Layout(640, 480))
    for plane, value in zip((image.y, image.u, image.v), yuv, strict=True):
        plane[:] = value
    tensor = Preprocessor(SQUARE).from_i420(image)
    assert tensor.min() >= 0
    assert tensor.max() <= 1
    assert np.abs(tensor[0] - np.array(rgb)[:, None, None]).max() < 0.01


def test_tensor_is_limited_where_mean_is_not_zero() -> None:
    image = I420.empty(Layout(640, 480))
    for plane, value in zip((image.y, image.u, image.v), (0, 255, 255), strict=True):
        plane[:] = value
    assert np.abs(Preprocessor(WIDE).from_i420(image)[0] - reference(image, WIDE)).max() < 1 / min(WIDE.std)


def test_strided_and_read_only_planes() -> None:
    image = picture(641, 481)
    wide = np.zeros((2 * 481, 700), np.uint8)
    wide[::2, 3:644] = image.y
    chroma = [np.zeros((241, 400), np.uint8)[:, :321], np.zeros((241, 642), np.uint8)[:, ::2]]
    for plane, source in zip(chroma, (image.u, image.v), strict=True):
        plane[:] = source
    odd = I420(wide[::2, 3:644], chroma[0], chroma[1], image.layout)
    for plane in (odd.y, odd.u, odd.v):
        plane.flags.writeable = False
    preprocessor = Preprocessor(SQUARE)
    wanted = preprocessor.from_i420(image).copy()
    assert np.array_equal(preprocessor.from_i420(odd), wanted)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (15, 4000), (100, 80), (338, 640), (16, 16)])
def test_any_size_gives_a_picture(size: tuple[int, int]) -> None:
    image = I420.empty(Layout(*size, full_range=True))
    for plane, value in zip((image.y, image.u, image.v), (100, 128, 128), strict=True):
        plane[:] = value
    assert np.abs(Preprocessor(SQUARE).from_i420(image) - 100 / 255).max() < 1.1 / 255


@pytest.mark.parametrize("spec", [SQUARE, WIDE], ids=["square", "wide"])
def test_pictures_are_averaged_exactly(spec: InputSpec) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (601, 803, 3)).astype(np.uint8)
    wanted = scaled(np.stack([average(rgb[..., channel], spec) for channel in range(3)]), spec)
    assert np.abs(Preprocessor(spec).from_rgb(rgb)[0] - wanted).max() < 1.01 / min(spec.std)


def test_bilinear_is_the_original_s_resize() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (601, 803, 3)).astype(np.uint8)
    wanted = cv2.resize(rgb, (260, 260)).transpose(2, 0, 1).astype(np.float32) / 255
    assert np.abs(Preprocessor(SQUARE, "bilinear").from_rgb(rgb)[0] - wanted).max() < 1e-6


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 3), np.float32),
    ],
    ids=str,
)
def test_what_is_no_picture_is_refused(image: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="a picture is"):
        Preprocessor(SQUARE).from_rgb(image)


def test_a_video_frame_and_its_picture_give_the_same() -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(30, 226, (18, 32, 3)).astype(np.uint8), (1280, 720), interpolation=cv2.INTER_LINEAR)
    image = I420.view(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420).ravel(), Layout(1280, 720))
    video, still = Preprocessor(SQUARE), Preprocessor(SQUARE)
    assert np.abs(video.from_i420(image) - still.from_rgb(rgb)).mean() < 1 / 255


def test_boxes_find_their_way_back() -> None:
    xyxy = np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)
    assert Preprocessor(WIDE).to_source(xyxy, 1920, 1080).tolist() == [[0, 270, 960, 1080]]


def test_threads_do_not_share_a_tensor() -> None:
    preprocessor = Preprocessor(SQUARE)
    images = [picture(640, 480 + 2 * n, seed=n) for n in range(4)]
    wanted = [preprocessor.from_i420(image).copy() for image in images]
    wrong: list[int] = []

    def work(n: int) -> None:
        wrong.extend(n for _ in range(30) if not np.array_equal(preprocessor.from_i420(images[n]), wanted[n]))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


_AT_THE_EDGE = """
import ctypes, mmap
import numpy as np
from pipeline.inference.model_card import InputSpec
from pipeline.inference.preprocess import Preprocessor
from pipeline.types import I420, Layout

page = mmap.PAGESIZE
libc = ctypes.CDLL(None, use_errno=True)
for width, height in [(1280, 720), (1920, 1080), (333, 555), (101, 1001), (64, 48), (17, 33), (3, 3)]:
    layout = Layout(width, height)
    size = -(-layout.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(address + size), ctypes.c_size_t(page), 0) == 0
    flat = np.frombuffer(memory, np.uint8, layout.nbytes, size - layout.nbytes)
    for side in (260, 64, 416):
        Preprocessor(InputSpec(width=side, height=side)).from_i420(I420.view(flat, layout))
"""


def test_nothing_is_read_behind_the_last_pixel() -> None:
    """The last frame of a ring ends where its memory ends: one byte further is a crash."""
    done = subprocess.run([sys.executable, "-c", _AT_THE_EDGE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
