"""What every source promises, held to each kind that can run on any machine."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from pydantic import ValidationError

from pipeline import plugins
from pipeline.capture.source import LiveSource, Source, SourceLost
from pipeline.errors import PipelineError
from pipeline.types import SourceReason
from tests.media import write_moving

Settings = dict[str, Any]

GOOD: dict[str, Callable[[Path], Settings]] = {
    "file": lambda folder: {"path": str(write_moving(folder / "a.mp4", 20))},
    "lavfi": lambda _: {"graph": "testsrc2=size=64x48:rate=25:duration=0.8", "realtime": False},
}
BAD: dict[str, Settings] = {"file": {"path": "/nowhere/a.mp4"}, "lavfi": {"graph": "nosuchfilter"}}
AWAY: dict[str, Settings] = {"rtsp": {"url": "rtsp://127.0.0.1:1/one"}, "camera": {"device": "/dev/video-none"}}
"""Live sources that are not there, on any machine; what they give when they are, other tests see."""

KINDS = [kind for kind in plugins.kinds("source") if kind in GOOD]


def build(kind: str, settings: Settings) -> Source:
    plugin = plugins.load("source", kind)
    source: Source = plugin.create(plugin.config.model_validate(settings), "gate")
    return source


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_kinds_of_this_package_are_known_here() -> None:
    assert {*GOOD, *AWAY} == set(plugins.kinds("source"))


@pytest.mark.parametrize("name", plugins.kinds("source"))
def test_unknown_keys_are_refused(name: str) -> None:
    config = plugins.load("source", name).config
    with pytest.raises(ValidationError, match="no_such_key"):
        config.model_validate({**{**BAD, **AWAY}.get(name, {}), "no_such_key": 1})


def test_it_reads_to_the_end_and_does_so_again_after_it_was_closed(kind: str, tmp_path: Path) -> None:
    source = build(kind, GOOD[kind](tmp_path))
    assert source.pacing in ("lossless", "paced", "live")
    times = []
    for _ in range(2):
        source.open()
        times.append([picture.time_s for picture in iter(source.read, None)])
        assert source.read() is None
        source.close()
    assert len(times[0]) == 20
    assert times[0] == times[1]
    assert times[0][0] == 0
    assert all(before < after for before, after in pairwise(times[0]))


def test_closing_is_always_safe(kind: str, tmp_path: Path) -> None:
    source = build(kind, GOOD[kind](tmp_path))
    source.close()
    source.open()
    source.read()
    source.close()
    source.close()


def test_a_failed_open_says_why_and_leaves_nothing_behind(kind: str) -> None:
    source = build(kind, BAD[kind])
    for _ in range(2):
        with pytest.raises(PipelineError) as caught:
            source.open()
        assert str(next(iter(BAD[kind].values()))) in str(caught.value)
        source.close()


@pytest.mark.parametrize("name", AWAY)
def test_a_live_source_that_is_away_says_so_and_may_be_tried_again(name: str) -> None:
    source = cast("LiveSource", build(name, AWAY[name]))
    assert source.pacing == "live"
    assert source.stall_s > 0
    assert source.reconnect_max_s > 0
    for _ in range(2):
        with pytest.raises(SourceLost) as caught:
            source.open()
        assert str(next(iter(AWAY[name].values()))) in str(caught.value)
        assert caught.value.reason in get_args(SourceReason)
        source.close()
    assert not source.renewed
    assert source.undecoded == 0
    source.close()


def test_what_is_known_beforehand_may_be_asked_at_any_time(kind: str, tmp_path: Path) -> None:
    source = build(kind, GOOD[kind](tmp_path))
    assert source.expected_frames is None
    assert source.start_wall_ns is None
    source.open()
    assert source.expected_frames in (None, 20)
    source.close()


@pytest.mark.parametrize("seq", [0, 9, 20, 25])
def test_a_restart_goes_on_where_an_unbroken_read_would_be(kind: str, tmp_path: Path, seq: int) -> None:
    settings = GOOD[kind](tmp_path)
    unbroken, restarted = build(kind, settings), build(kind, settings)
    unbroken.open()
    expected = [(picture.time_s, picture.image.y.tobytes()) for picture in iter(unbroken.read, None)]
    unbroken.close()
    restarted.open()
    restarted.seek(seq)
    rest = [(picture.time_s, picture.image.y.tobytes()) for picture in iter(restarted.read, None)]
    restarted.close()
    assert rest == expected[seq:]
