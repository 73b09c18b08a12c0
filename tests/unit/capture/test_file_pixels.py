"""Size, colour and orientation: what is 8-bit 4:2:0 comes untouched, everything else as it was meant to look."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.types import Layout, Picture
from tests.media import (
    Matrix,
    corners,
    frame_of,
    moving,
    quadrants,
    set_display_matrix,
    to_rgb,
    to_yuv,
    write_moving,
    write_video,
)
from tests.unit.capture.reading import read_all


def rgb_corners(picture: Picture) -> np.ndarray[Any, Any]:
    image = picture.image
    return corners(to_rgb((image.y, image.u, image.v), image.layout.matrix, image.layout.full_range))


def subsampled(yuv: tuple[np.ndarray[Any, Any], ...]) -> tuple[np.ndarray[Any, Any], ...]:
    return yuv[0], yuv[1][::2, ::2], yuv[2][::2, ::2]


@pytest.mark.parametrize(("width", "height"), [(321, 241), (320, 241), (321, 240)])
def test_odd_sizes_stay_odd(tmp_path: Path, width: int, height: int) -> None:
    yuv = subsampled(to_yuv(quadrants(width, height)))
    frames = [frame_of(yuv, "yuv420p") for _ in range(2)]
    (picture, _) = read_all(write_video(tmp_path / "a.mkv", frames, codec="ffv1"))
    assert picture.image.layout == Layout(width, height)
    for plane, expected in zip((picture.image.y, picture.image.u, picture.image.v), yuv, strict=True):
        np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020"])
@pytest.mark.parametrize("full_range", [False, True])
def test_matrix_and_range_are_carried_not_converted(tmp_path: Path, matrix: Matrix, full_range: bool) -> None:
    yuv = subsampled(to_yuv(quadrants(64, 48), matrix, full_range))
    path = write_video(
        tmp_path / "a.mp4", [frame_of(yuv, "yuv420p")], matrix=matrix, color_range=2 if full_range else 1
    )
    (picture,) = read_all(path)
    assert picture.image.layout == Layout(64, 48, matrix, full_range)
    np.testing.assert_array_equal(picture.image.y, yuv[0])
    np.testing.assert_array_equal(picture.image.u, yuv[1])


@pytest.mark.parametrize(("height", "matrix"), [(704, "bt601"), (720, "bt709")])
def test_an_unknown_matrix_is_told_by_the_lines(tmp_path: Path, height: int, matrix: str) -> None:
    frames = [frame_of(subsampled(to_yuv(quadrants(64, height))), "yuv420p")]
    (picture,) = read_all(write_video(tmp_path / "a.mp4", frames))
    assert picture.image.layout == Layout(64, height, "bt709" if matrix == "bt709" else "bt601")


_ANY = [(matrix, full_range) for matrix in ("bt601", "bt709") for full_range in (False, True)]
_SAMPLINGS = [
    ("yuv420p10le", "ffv1", (1, 2, 2), _ANY),
    ("yuv420p10le", "libx264", (1, 2, 2), _ANY),
    ("yuv444p", "ffv1", (1, 1, 1), _ANY),
    ("yuv444p10le", "ffv1", (1, 1, 1), _ANY),
    ("yuvj444p", "mjpeg", (1, 1, 1), [("bt601", True)]),
]


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "steps", "matrix", "full_range"),
    [(*sampling, matrix, full) for *sampling, colours in _SAMPLINGS for matrix, full in colours],
)
def test_other_samplings_and_depths_are_converted_once_with_their_own_matrix_and_range(
    tmp_path: Path, pix_fmt: str, codec: str, steps: tuple[int, ...], matrix: Matrix, full_range: bool
) -> None:
    rgb = quadrants(64, 48)
    planes = [plane[::step, ::step] for plane, step in zip(to_yuv(rgb, matrix, full_range), steps, strict=True)]
    path = write_video(
        tmp_path / "a.mkv",
        [frame_of(planes, pix_fmt)],
        codec=codec,
        pix_fmt=pix_fmt,
        matrix=matrix,
        color_range=2 if full_range else 1,
        options={"qmin": "1", "qmax": "1", "flags": "qscale", "global_quality": "1"} if codec == "mjpeg" else None,
    )
    (picture,) = read_all(path)
    assert picture.image.layout == Layout(64, 48, matrix, full_range)
    assert np.abs(rgb_corners(picture) - corners(rgb)).max() <= 4


def test_half_horizontal_sampling_is_converted(tmp_path: Path) -> None:
    rgb = quadrants(64, 48)
    y, u, v = to_yuv(rgb)
    frame = frame_of((y, u[:, ::2], v[:, ::2]), "yuv422p")
    (picture,) = read_all(write_video(tmp_path / "a.mkv", [frame], codec="ffv1", pix_fmt="yuv422p"))
    np.testing.assert_array_equal(picture.image.y, y)
    assert np.abs(rgb_corners(picture) - corners(rgb)).max() <= 4


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mkv", "libx264rgb", "rgb24"),
        ("a.mov", "qtrle", "rgb24"),
        ("a.gif", "gif", "rgb8"),
        ("a.mkv", "ffv1", "bgr0"),
    ],
)
@pytest.mark.parametrize("height", [48, 720])
def test_rgb_becomes_limited_yuv_of_its_size(tmp_path: Path, name: str, codec: str, pix_fmt: str, height: int) -> None:
    rgb = (quadrants(64, height) // 128 * 255).astype(np.uint8)  # what eight bits a pixel hold exactly
    frames = [av.VideoFrame.from_ndarray(rgb, "rgb24").reformat(format=pix_fmt) for _ in range(2)]
    expected = corners(frames[0].to_ndarray(format="rgb24"))
    (picture, _) = read_all(write_video(tmp_path / name, frames, codec=codec, pix_fmt=pix_fmt))
    assert picture.image.layout == Layout(64, height, "bt709" if height == 720 else "bt601")
    assert np.abs(rgb_corners(picture) - expected).max() <= 5


def test_grey_keeps_its_brightness(tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
    (picture,) = read_all(write_video(tmp_path / "a.mkv", [frame_of([grey], "gray")], codec="ffv1", pix_fmt="gray"))
    image = picture.image
    shown = to_rgb((image.y, image.u, image.v), image.layout.matrix, image.layout.full_range)
    assert np.abs(shown - grey[..., None].astype(int)).max() <= 2


def test_interleaved_chroma_is_taken_apart_exactly(tmp_path: Path) -> None:
    y, u, v = moving(7)
    frame = frame_of((y, np.stack([u, v], -1)), "nv12")
    (picture,) = read_all(write_video(tmp_path / "a.nut", [frame], codec="rawvideo", pix_fmt="nv12"))
    for plane, expected in zip((picture.image.y, picture.image.u, picture.image.v), (y, u, v), strict=True):
        np.testing.assert_array_equal(plane, expected)


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda a: a),
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
        ((-1, 0, 0, 1), lambda a: a[:, ::-1]),
        ((1, 0, 0, -1), lambda a: a[::-1]),
        ((0, 1, 1, 0), lambda a: a.T),
        ((0, -1, -1, 0), lambda a: a[::-1, ::-1].T),
    ],
)
def test_what_was_filmed_sideways_is_turned_upright(
    tmp_path: Path, matrix: tuple[int, int, int, int], turned: Any
) -> None:
    path = write_moving(tmp_path / "a.mp4", 2, 64, 48, sample_aspect=Fraction(4, 3))
    set_display_matrix(path, *matrix)
    pictures = read_all(path)
    for index, picture in enumerate(pictures):
        planes = (picture.image.y, picture.image.u, picture.image.v)
        for plane, stored in zip(planes, moving(index), strict=True):
            np.testing.assert_array_equal(plane, turned(stored))
        assert picture.image.layout.sample_aspect == ((3, 4) if matrix[0] == 0 else (4, 3))


def test_a_crooked_turn_is_ignored_and_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_moving(tmp_path / "a.mp4", 30)
    set_display_matrix(path, 1, 1, -1, 1)
    pictures = read_all(path)
    assert all(np.array_equal(picture.image.y, moving(i)[0]) for i, picture in enumerate(pictures))
    assert [record.message for record in caplog.records if "ignored" in record.message] == [
        "the rotation of -45 degrees in the metadata is ignored: not a quarter turn"
    ]
