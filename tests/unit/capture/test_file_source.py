"""What comes out of files of every kind: how many pictures, when, and the same again after a restart."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.sources.file import Config, create
from pipeline.errors import ConfigError
from pipeline.types import I420, Layout
from tests.media import moving, write_moving
from tests.unit.capture.reading import owned, read_all, same

CONTAINERS = [("a.mp4", "libx264"), ("a.mkv", "ffv1"), ("a.avi", "mpeg4"), ("a.mov", "libx264"), ("a.ts", "libx264")]


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


def test_the_credentials_in_an_address_that_was_taken_for_a_path_are_not_told() -> None:
    source = create(Config(path="rtsp://me:hunter2@camera/1"), "gate")
    with pytest.raises(ConfigError, match=r"rtsp:/\*\*\*@camera/1 is not there"):
        source.open()
    source = create(Config(path="http://me:hunter2@host/a?b=1"), "gate")
    with pytest.raises(ConfigError, match=r"http:/\*\*\*@host/a\?b=1 matches no pictures"):
        source.open()
