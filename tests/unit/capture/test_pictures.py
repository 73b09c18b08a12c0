from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.sources.file import Config, create
from pipeline.errors import ConfigError, SourceBroken
from tests.media import corners, quadrants, set_exif_orientation, to_rgb, write_picture

RGB = quadrants(64, 48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_picture(tmp_path / "2.png", RGB)
    write_picture(tmp_path / "10.PNG", quadrants(33, 21))
    write_picture(tmp_path / "1.jpg", RGB, "yuvj420p", "mjpeg")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "sub.png").mkdir()
    return tmp_path


def read(path: Path, fps: float = 10) -> list[tuple[float, int, int]]:
    source = create(Config(path=str(path), picture_fps=fps), "gate")
    source.open()
    seen = [(p.time_s, p.image.layout.width, p.image.layout.height) for p in iter(source.read, None)]
    source.close()
    return seen


def test_a_folder_is_read_by_number_each_picture_in_its_size(folder: Path) -> None:
    assert read(folder) == [(0, 64, 48), (0.1, 64, 48), (0.2, 33, 21)]


def test_a_glob_takes_what_it_matches(folder: Path) -> None:
    assert read(folder / "*.[pP][nN][gG]", fps=25) == [(0, 64, 48), (0.04, 33, 21)]


def test_an_unreadable_picture_leaves_a_gap_and_a_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:40])
    assert read(folder) == [(0, 64, 48), (0.1, 64, 48), (0.3, 33, 21)]
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(folder / "3.png") in message


def test_nothing_but_unreadable_pictures(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(SourceBroken, match=r"not one picture can be read; .*1\.png"):
        read(tmp_path)


def test_a_folder_or_glob_without_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    with pytest.raises(ConfigError, match=f"{tmp_path} is a folder without pictures"):
        read(tmp_path)
    with pytest.raises(ConfigError, match="matches no pictures"):
        read(tmp_path / "*.png")


@pytest.mark.parametrize("seq", [0, 1, 2, 3])
def test_a_restart_goes_on_at_the_same_picture_and_time(folder: Path, seq: int) -> None:
    (folder / "0.png").write_text("no picture")
    expected = read(folder)
    source = create(Config(path=str(folder), picture_fps=10), "gate")
    source.open()
    assert source.expected_frames == 4
    source.seek(seq)
    seen = [(p.time_s, p.image.layout.width, p.image.layout.height) for p in iter(source.read, None)]
    assert seen == expected[seq:]
    source.close()


def test_colours_of_a_photograph_and_of_a_drawing(folder: Path) -> None:
    source = create(Config(path=str(folder)), "gate")
    source.open()
    for full_range in (True, False):
        picture = source.read()
        assert picture is not None
        image = picture.image
        assert image.layout.full_range == full_range
        shown = to_rgb((image.y, image.u, image.v), image.layout.matrix, full_range)
        assert np.abs(corners(shown) - corners(RGB)).max() <= 6
    source.close()


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_photograph_is_turned_as_the_camera_was_held(tmp_path: Path, orientation: int, quarter_turns: int) -> None:
    path = write_picture(tmp_path / "1.jpg", RGB, "yuvj420p", "mjpeg")
    set_exif_orientation(path, orientation)
    source = create(Config(path=str(path)), "gate")
    source.open()
    picture = source.read()
    assert picture is not None
    image = picture.image
    shown = to_rgb((image.y, image.u, image.v), image.layout.matrix, image.layout.full_range)
    upright = np.rot90(RGB, quarter_turns)
    assert shown.shape == upright.shape
    assert np.abs(corners(shown) - corners(upright)).max() <= 6
    source.close()
