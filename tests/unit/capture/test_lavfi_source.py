from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.capture.sources.lavfi import Config, create
from pipeline.errors import ConfigError
from tests.media import moving, write_moving


def times(graph: str, count: int = 10**6, **config: object) -> list[float]:
    source = create(Config(graph=graph, **config), "gate")  # type: ignore[arg-type]
    source.open()
    seen = [picture.time_s for _, picture in zip(range(count), iter(source.read, None))]  # noqa: B905
    source.close()
    return seen


def test_a_test_pattern_has_its_size_and_rate() -> None:
    source = create(Config(graph="testsrc2=size=322x240:rate=10"), "gate")
    source.open()
    picture = source.read()
    assert picture is not None
    assert (picture.image.layout.width, picture.image.layout.height, picture.time_s) == (322, 240, 0)
    assert source.pacing == "paced"
    assert source.expected_frames is None
    source.close()
    assert times("testsrc2=size=64x48:rate=10", 3) == [0, 0.1, 0.2]


def test_a_graph_ends_by_itself_or_at_its_duration() -> None:
    assert len(times("testsrc2=size=64x48:rate=10:duration=2")) == 20
    assert len(times("testsrc2=size=64x48:rate=10", duration_s=1.5, realtime=False)) == 15


def test_a_file_in_a_loop(tmp_path: Path) -> None:
    path = write_moving(tmp_path / "a.mp4", 10)
    source = create(Config(graph=f"movie={path}:loop=0,setpts=N/(25*TB)", realtime=False), "gate")
    assert source.pacing == "lossless"
    source.open()
    for index in range(25):
        picture = source.read()
        assert picture is not None
        assert picture.time_s == pytest.approx(index / 25)
        assert np.array_equal(picture.image.y, moving(index % 10)[0])
    source.close()


def test_pictures_that_stand_on_their_head_in_memory(tmp_path: Path) -> None:
    source = create(Config(graph=f"movie={write_moving(tmp_path / 'a.mp4', 3)},vflip"), "gate")
    source.open()
    for index in range(3):
        picture = source.read()
        assert picture is not None
        planes = (picture.image.y, picture.image.u, picture.image.v)
        for plane, stored in zip(planes, moving(index), strict=True):
            np.testing.assert_array_equal(plane, stored[::-1])
    source.close()


def test_a_restart_repeats_nothing_where_the_end_counts_and_begins_anew_where_it_is_a_camera() -> None:
    for realtime, duration_s, first_s in ((False, None, 0.7), (True, 1.0, 0.7), (True, None, 0)):
        source = create(Config(graph="testsrc2=size=64x48:rate=10", realtime=realtime, duration_s=duration_s), "gate")
        source.open()
        source.seek(7)
        picture = source.read()
        assert picture is not None
        assert picture.time_s == pytest.approx(first_s)
        source.close()


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("nosuchfilter", "No such filter: 'nosuchfilter'"),
        ("testsrc2=size=banana", 'Unable to parse "size" option value "banana" as image size'),
        ("movie=/nowhere/a.mp4", "No such file or directory"),
        ("sine", "holds no video, only audio"),
    ],
)
def test_a_bad_graph_is_named_with_ffmpeg_s_reason(graph: str, reason: str, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):  # FFmpeg's own suppression of repeated lines must not take the reason away
        source = create(Config(graph=graph), "gate")
        with pytest.raises(ConfigError) as caught:
            source.open()
        source.close()
        assert repr(graph) in str(caught.value)
        assert reason in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_the_credentials_in_a_graph_are_not_told() -> None:
    source = create(Config(graph=r"movie=rtsp\\://me\\:hunter2@127.0.0.1/a:loop=0"), "gate")
    with pytest.raises(ConfigError, match=r"//\*\*\*@127.0.0.1/a") as caught:
        source.open()
    assert "hunter2" not in str(caught.value)
