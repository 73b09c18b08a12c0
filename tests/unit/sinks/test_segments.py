"""Recordings in segments: cut where asked, listed when whole, whole after kill -9."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from pipeline.sinks.archive import Kept
from pipeline.sinks.kinds.recorder import Config, create
from pipeline.sinks.segments import Segments
from pipeline.types import Layout
from tests.unit.sinks.recordings import WALL_NS, context, encode_with, frames, new_encoder, shade
from tests.unit.sinks.segmented import ended, feed, files, index, listed, segments, settled
from tests.unit.sinks.test_recorder_killed import in_process, outcome

FPS = 25


def test_segments_are_cut_at_multiples_of_their_length_and_listed_when_they_are_whole(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    assert sink.open() is None
    feed(sink, range(30, 130))  # from 1.2 s to 5.16 s, on a clock that begins at a whole second
    ended(sink)
    found = listed(tmp_path)
    assert [kept.path for kept in found] == files(tmp_path)
    assert [numbers_from(tmp_path, kept, first) for kept, first in zip(found, (30, 50, 100), strict=True)] == [
        list(range(30, 50)),
        list(range(50, 100)),
        list(range(100, 130)),
    ]
    assert [(kept.frames, kept.start_ns - WALL_NS) for kept in found] == [
        (20, 1_200_000_000),
        (50, 2_000_000_000),
        (30, 4_000_000_000),
    ]
    assert all(kept.bytes == (tmp_path / "recordings" / kept.path).stat().st_size for kept in found)
    with index(tmp_path) as archive:
        assert archive.gaps() == []


def numbers_from(place: Path, kept: Kept, first: int) -> list[int]:
    lumas = [luma for _, luma in frames(place / "recordings" / kept.path)]
    assert lumas == pytest.approx([shade(first + n) for n in range(len(lumas))], abs=2)
    return list(range(first, first + len(lumas)))


def test_the_name_and_the_metadata_say_when_on_both_clocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        sink = segments(tmp_path)
        sink.open()
        feed(sink, range(5))
        ended(sink)
        [name] = files(tmp_path)
        assert name == "2026-11-18/gate-20261118T110640Z-20261118T163640+0530.mp4"
        with av.open(str(tmp_path / "recordings" / name)) as file:
            said = json.loads(file.metadata["comment"])
        assert (said["start_utc"], said["start_local"]) == (
            "2026-11-18T11:06:40.000Z",
            "2026-11-18T16:36:40.000+05:30",
        )
    finally:
        monkeypatch.undo()
        time.tzset()


def test_gaps_are_listed_with_their_cause(tmp_path: Path) -> None:
    first = segments(tmp_path)
    first.open()
    encoder = new_encoder()
    first.start(encoder.stream)
    for packet in encode_with(encoder, [*range(10), *range(40, 50), *range(50, 60)], later_from(50, 3.0), first.wish):
        first.write(packet)
    ended(first)
    second = segments(tmp_path, "run-2")
    second.open()
    feed(second, range(200, 205))
    ended(second)
    with index(tmp_path) as archive:
        assert [
            (gap.reason, gap.frames, round((gap.end_ns - gap.start_ns) / 1e9, 3)) for gap in archive.gaps("gate")
        ] == [
            ("missing", 30, 1.24),
            ("source_lost", None, 3.04),
            ("not_running", None, 2.64),
        ]


def later_from(number: int, by_s: float) -> Callable[[int], float]:
    return lambda n: n / FPS + (by_s if n >= number else 0)


def test_a_segment_that_grows_plays_and_survives_kill_9(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()

    def work() -> None:
        sink = segments(tmp_path)
        sink.open()
        feed(sink, range(70))
        settled(sink)
        os.write(write_end, b"x")
        signal.sigtimedwait([signal.SIGUSR1], 60)

    pid = in_process(work)
    os.read(read_end, 1)
    [growing] = [name for name in files(tmp_path) if name.endswith(".part.mp4")]
    assert len(frames(tmp_path / "recordings" / growing)) == 20
    os.kill(pid, signal.SIGKILL)
    assert outcome(pid) == -signal.SIGKILL
    again = segments(tmp_path)
    assert again.open() == 69 / FPS
    feed(again, range(66, 80))  # another sink was behind: some frames come again
    ended(again)
    found = listed(tmp_path)
    assert [kept.frames for kept in found] == [50, 30]
    assert [kept.path for kept in found] == files(tmp_path)
    assert numbers_from(tmp_path, found[1], 50)
    with index(tmp_path) as archive:
        assert archive.gaps() == []


@pytest.mark.parametrize("calls", range(1, 10))
def test_killed_at_any_step_of_ending_a_segment_nothing_is_lost(tmp_path: Path, calls: int) -> None:
    def work() -> None:
        from tests.unit.sinks.test_recorder_killed import die_at

        sink = segments(tmp_path)
        sink.open()
        feed(sink, range(30))
        die_at(calls)
        ended(sink)

    killed = outcome(in_process(work))
    again = segments(tmp_path)
    assert again.open() == 29 / FPS
    ended(again)
    [kept] = listed(tmp_path)
    assert (kept.path, kept.frames) == (files(tmp_path)[0], 30)
    assert len(frames(tmp_path / "recordings" / kept.path)) == 30
    assert calls < 9 or killed == 0, "there are more steps than this test takes"


def test_two_sources_share_a_directory(tmp_path: Path) -> None:
    config = Config(directory=tmp_path / "recordings", segment_s=2)
    sinks = [create(config, replace(context(tmp_path), source_id=source)) for source in ("gate", "gate2")]
    for sink in sinks:
        sink.open()
    for sink in sinks:
        assert isinstance(sink, Segments)
        feed(sink, range(60))
    for sink in sinks:
        sink.finish()
        sink.close()
    assert [(kept.source, kept.frames) for kept in listed(tmp_path)] == [
        ("gate", 50),
        ("gate2", 50),
        ("gate", 10),
        ("gate2", 10),
    ]


def test_a_change_of_size_begins_a_segment(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    sink.open()
    feed(sink, range(20))
    feed(sink, range(20, 30), layout=Layout(96, 64))
    ended(sink)
    assert [kept.frames for kept in listed(tmp_path)] == [20, 10]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": "a.mp4", "segment_s": 60}, "segment_s goes with directory"),
        ({"directory": "a", "keep_days": 3}, "keep_days goes with segment_s"),
        ({"directory": "a", "segment_s": 0}, "greater than or equal to 1"),
        ({"directory": "a", "segment_s": 60, "when_full": "burst"}, "'stop' or 'drop_oldest'"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Config.model_validate(options)


def test_a_damaged_part_is_left_alone(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    sink.open()
    feed(sink, range(20))
    sink.close()
    [name] = files(tmp_path)
    path = tmp_path / "recordings" / name
    data = path.read_bytes()
    for damaged in (data.replace(b'{"run"', b'{{"run'), data.replace(b"moov", b"moof", 1) + bytes(1 << 20), data[:60]):
        path.write_bytes(damaged)
        again = segments(tmp_path, "run-2")
        assert again.open() is None
        again.close()
        assert path.exists() == (len(damaged) > 100)
