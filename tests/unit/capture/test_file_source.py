"""What comes out of files of every kind: how many pictures, when, of which size and colour, and which way up."""

from __future__ import annotations

import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.capture.sources.file import Config, create
from pipeline.types import I420, Layout, Picture
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

CONTAINERS = [("a.mp4", "libx264"), ("a.mkv", "ffv1"), ("a.avi", "mpeg4"), ("a.mov", "libx264"), ("a.ts", "libx264")]


def owned(picture: Picture) -> Picture:
    copy = I420.empty(picture.image.layout)
    picture.image.copy_to(copy)
    return Picture(copy, picture.time_s, picture.corrupt)


def read_all(path: Path, **config: Any) -> list[Picture]:
    source = create(Config(path=str(path), **config), "gate")
    source.open()
    try:
        return [owned(picture) for picture in iter(source.read, None)]
    finally:
        source.close()


def same(first: Picture, second: Picture) -> bool:
    planes = zip((first.image.y, first.image.u, first.image.v), (second.image.y, second.image.u, second.image.v))  # noqa: B905
    return (
        first.time_s == second.time_s
        and first.image.layout == second.image.layout
        and all(np.array_equal(mine, its) for mine, its in planes)
    )


def rgb_corners(picture: Picture) -> np.ndarray[Any, Any]:
    image = picture.image
    return corners(to_rgb((image.y, image.u, image.v), image.layout.matrix, image.layout.full_range))


def subsampled(yuv: tuple[np.ndarray[Any, Any], ...]) -> tuple[np.ndarray[Any, Any], ...]:
    return yuv[0], yuv[1][::2, ::2], yuv[2][::2, ::2]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_every_picture_comes_once_and_on_time(tmp_path: Path, name: str, codec: str) -> None:
    options = {"qmin": "1", "qmax": "1"} if codec == "mpeg4" else None
    pictures = read_all(write_moving(tmp_path / name, 40, codec=codec, options=options))
    assert [picture.time_s for picture in pictures] == pytest.approx([i / 25 for i in range(40)], abs=1e-3)
    assert not any(picture.corrupt for picture in pictures)
    for index, picture in enumerate(pictures):
        apart = np.abs(picture.image.y.astype(int) - moving(index)[0]).mean()
        assert apart < (4 if codec == "mpeg4" else 1e-9)


def test_planes_are_the_decoder_s_own_and_untouched(tmp_path: Path) -> None:
    source = create(Config(path=str(write_moving(tmp_path / "a.mp4", 3))), "gate")
    source.open()
    picture = source.read()
    assert picture is not None
    assert not picture.image.y.flags.owndata
    for plane, expected in zip((picture.image.y, picture.image.u, picture.image.v), moving(0), strict=True):
        np.testing.assert_array_equal(plane, expected)
    source.close()


def test_a_variable_rate_is_kept(tmp_path: Path) -> None:
    stamps = [0, 1, 2, 10, 30, 31, 60]
    pictures = read_all(write_moving(tmp_path / "a.mkv", 7, pts=stamps))
    assert [picture.time_s for picture in pictures] == pytest.approx([stamp / 25 for stamp in stamps], abs=1e-3)


def test_time_begins_at_the_first_picture(tmp_path: Path) -> None:
    pictures = read_all(write_moving(tmp_path / "a.mkv", 3, pts=[250, 251, 252]))
    assert [picture.time_s for picture in pictures] == pytest.approx([0, 0.04, 0.08], abs=1e-3)


@pytest.mark.parametrize("rate", [25, 30])
def test_a_bare_stream_counts_by_the_rate_in_its_header(tmp_path: Path, rate: int) -> None:
    pictures = read_all(write_moving(tmp_path / "a.h264", 30, rate=rate, format_="h264"))
    assert [picture.time_s for picture in pictures] == [i / rate for i in range(30)]


def test_avi_with_reordered_pictures_keeps_order_and_rate(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.avi", 40, options={"preset": "medium", "bf": "3", "qp": "0"})
    pictures = read_all(path)
    assert [picture.time_s for picture in pictures] == pytest.approx([i / 25 for i in range(40)])
    assert all(np.array_equal(picture.image.y, moving(i)[0]) for i, picture in enumerate(pictures))


def test_timestamps_that_begin_anew_go_on(tmp_path: Path) -> None:
    first, second = (write_moving(tmp_path / f"{name}.ts", 50) for name in "ab")
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    pictures = read_all(joined)
    assert len(pictures) == 100
    assert [picture.time_s for picture in pictures] == pytest.approx([i / 25 for i in range(100)], abs=1e-3)


def test_a_change_of_size_is_another_layout(tmp_path: Path) -> None:
    first = write_moving(tmp_path / "a.ts", 10)
    second = write_moving(tmp_path / "b.ts", 10, 96, 64)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    sizes = [(picture.image.layout.width, picture.image.layout.height) for picture in read_all(joined)]
    assert sizes == [(64, 48)] * 10 + [(96, 64)] * 10


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


def test_interlaced_video_is_read_as_it_is(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.mp4", 10, options={"x264-params": "interlaced=1:qp=0"})
    assert len(read_all(path)) == 10


@pytest.mark.parametrize(
    ("creation_time", "start_wall_ns"),
    [
        ("2024-05-06T07:08:09.500000Z", 1714979289500000000),
        ("1970-01-01T00:00:00Z", None),
        ("2999-01-01T00:00:00Z", None),
        (None, None),
    ],
)
def test_the_wall_clock_of_the_beginning(tmp_path: Path, creation_time: str | None, start_wall_ns: int | None) -> None:
    metadata = {"creation_time": creation_time} if creation_time else {}
    source = create(Config(path=str(write_moving(tmp_path / "a.mkv", 2, metadata=metadata))), "gate")
    assert source.start_wall_ns is None
    source.open()
    assert source.start_wall_ns == start_wall_ns
    assert source.expected_frames == 2
    source.close()


@pytest.mark.parametrize("name", ["with space.mp4", "100%d.mp4", "a:b.mp4", "[x]*.mp4", "ü.mp4", "-y.mp4"])
def test_names_that_mean_something_elsewhere_are_just_names(tmp_path: Path, name: str) -> None:
    path = write_moving(tmp_path / "plain.mp4", 2).rename(tmp_path / name)
    assert len(read_all(path)) == 2


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
@pytest.mark.parametrize("seq", [0, 1, 13, 39, 40])
def test_a_restart_goes_on_with_the_same_pictures_and_times(tmp_path: Path, name: str, codec: str, seq: int) -> None:
    options = {"preset": "medium", "bf": "3", "qp": "0"} if codec == "libx264" else None
    path = write_moving(tmp_path / name, 40, codec=codec, options=options)
    unbroken = read_all(path)
    source = create(Config(path=str(path)), "gate")
    source.open()
    source.seek(seq)
    rest = [owned(picture) for picture in iter(source.read, None)]
    source.close()
    assert len(rest) == 40 - seq
    assert all(same(mine, its) for mine, its in zip(rest, unbroken[seq:], strict=True))


def test_a_loop_goes_on_for_ever_and_time_with_it(tmp_path: Path) -> None:
    source = create(Config(path=str(write_moving(tmp_path / "a.mp4", 10)), realtime=True, loop=True), "gate")
    assert source.pacing == "paced"
    source.open()
    assert source.expected_frames is None
    pictures = [owned(picture) for _, picture in zip(range(35), iter(source.read, None))]  # noqa: B905
    assert [picture.time_s for picture in pictures] == pytest.approx([i / 25 for i in range(35)])
    assert all(np.array_equal(picture.image.y, moving(i % 10)[0]) for i, picture in enumerate(pictures))
    for seq in (0, 7, 10, 33):
        source.close()
        source.open()
        source.seek(seq)
        picture = source.read()
        assert picture is not None
        assert same(picture, pictures[seq])
    source.close()


def test_loop_needs_real_time() -> None:
    with pytest.raises(ValueError, match="loop needs realtime: true"):
        Config(path="a.mp4", loop=True)


def test_two_thousand_frames_take_no_more_memory_than_two_hundred(tmp_path: Path) -> None:
    source = create(Config(path=str(write_moving(tmp_path / "a.mp4", 100)), realtime=True, loop=True), "gate")
    source.open()
    slot = I420.empty(Layout(64, 48))

    def read(count: int) -> tuple[int, int]:
        for _ in range(count):
            picture = source.read()
            assert picture is not None
            picture.image.copy_to(slot)
        return tracemalloc.get_traced_memory()[0], resident_bytes()

    tracemalloc.start()
    try:
        traced, resident = read(300)
        traced_later, resident_later = read(2000)
    finally:
        tracemalloc.stop()
    assert traced_later - traced < 50_000
    assert resident_later - resident < 4_000_000
    source.close()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
