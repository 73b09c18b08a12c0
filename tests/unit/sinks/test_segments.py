"""Recordings in segments: cut where asked, listed when whole, kept as long as wanted, whole after kill -9."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import pytest
from pydantic import ValidationError

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks.archive import FILE, Archive, Gap, Kept
from pipeline.sinks.kinds.recorder import Config, create
from pipeline.sinks.segments import Segments
from pipeline.types import Event, Layout
from tests.unit.sinks.recordings import SMALL, WALL_NS, context, encode_with, frames, new_encoder, shade
from tests.unit.sinks.test_recorder_killed import in_process, outcome

FPS = 25
Numbers = Sequence[int]


def segments(place: Path, run_id: str = "run-1", told: list[Event] | None = None, **options: Any) -> Segments:
    config = Config(directory=place / "recordings", segment_s=options.pop("segment_s", 2), **options)
    its = context(place, run_id)
    sink = create(config, replace(its, tell=told.append) if told is not None else its)
    assert isinstance(sink, Segments)
    return sink


def feed(sink: Segments, shown: Numbers, time_s: Callable[[int], float] | None = None, layout: Layout = SMALL) -> None:
    encoder = new_encoder(layout)
    sink.start(encoder.stream)
    for packet in encode_with(encoder, shown, time_s, sink.wish):
        sink.write(packet)


def settled(sink: Segments) -> None:
    """Waits until what goes on behind is done."""
    sink._storage.do(lambda archive: archive.directory).result()


def ended(sink: Segments) -> None:
    sink.finish()
    sink.close()


@contextlib.contextmanager
def index(place: Path) -> Iterator[Archive]:
    archive = Archive(place / "recordings", read_only=True)
    yield archive
    archive.close()


def listed(place: Path) -> list[Kept]:
    with index(place) as archive:
        return list(archive.files())


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place / "recordings")) for path in (place / "recordings").glob("*/*"))


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


def test_a_lost_index_is_made_again(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    sink.open()
    feed(sink, range(120))
    ended(sink)
    before = listed(tmp_path)
    (tmp_path / "recordings" / "index.sqlite").unlink()
    sink.open()
    sink.close()
    assert listed(tmp_path) == before
    (tmp_path / "recordings" / "index.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(ConfigError, match=r"index\.sqlite is not an index"):
        sink.open()
    sink.close()


def test_the_oldest_goes_first_of_all_sources_and_never_what_is_not_whole(tmp_path: Path) -> None:
    sink = segments(tmp_path, max_gb=1e-9)
    sink.open()
    feed(sink, range(60))
    settled(sink)
    growing = [name for name in files(tmp_path) if name.endswith(".part.mp4")]
    assert len(growing) == 1
    sink.close()
    assert files(tmp_path) == growing
    assert listed(tmp_path) == []
    again = segments(tmp_path, "run-2")
    again.open()
    feed(again, range(200, 360))
    ended(again)
    assert [kept.frames for kept in listed(tmp_path)] == [10, 50, 50, 50, 10]
    total = sum(kept.bytes for kept in listed(tmp_path))
    with contextlib.closing(Archive(tmp_path / "recordings")) as archive:
        assert len(archive.retire(bytes_max=total - 1)) == 1
        assert len(archive.retire(bytes_max=sum(kept.bytes for kept in listed(tmp_path)) - 1)) == 1
    assert [kept.frames for kept in listed(tmp_path)] == [50, 50, 10]
    assert [kept.path for kept in listed(tmp_path)] == files(tmp_path)


def test_what_is_older_than_keep_days_goes(tmp_path: Path) -> None:
    sink = segments(tmp_path, keep_days=1)
    now_ns = time.time_ns()
    yesterday, today = now_ns - 2 * 86400 * 10**9, now_ns - 3600 * 10**9
    sink.open()
    with contextlib.closing(Archive(tmp_path / "recordings")) as archive:
        for name, at_ns in (("old", yesterday), ("new", today)):
            day = datetime.fromtimestamp(at_ns / 1e9, UTC).strftime("%Y-%m-%d")
            (tmp_path / "recordings" / day).mkdir(exist_ok=True)
            (tmp_path / "recordings" / day / name).touch()
            os.utime(tmp_path / "recordings" / day / name, ns=(at_ns, at_ns))
            archive.add(Kept(f"{day}/{name}", "segment", "yard", at_ns, at_ns, 1, 1, "run-0", 0.0))
        archive.add_gap(Gap("yard", yesterday - 10, yesterday - 5, "not_running"))
    sink.open()
    assert [name[-3:] for name in files(tmp_path)] == ["new"]
    with index(tmp_path) as archive:
        assert archive.gaps() == []
    assert len([path for path in (tmp_path / "recordings").iterdir() if path.is_dir()]) == 1
    sink.close()


def test_a_recording_of_an_old_video_is_kept_from_when_it_was_made(tmp_path: Path) -> None:
    sink = segments(tmp_path, keep_days=1)
    sink.open()
    years_ago_s = -5 * 365 * 86400
    encoder = new_encoder()
    sink.start(encoder.stream)
    for packet in encode_with(encoder, range(60), None, sink.wish):
        sink.write(replace(packet, wall_ns=packet.wall_ns + years_ago_s * 10**9))
    ended(sink)
    assert [kept.frames for kept in listed(tmp_path)] == [50, 10]
    sink.open()
    sink.close()
    assert len(files(tmp_path)) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_oldest_goes_and_that_is_said_once(small_disk: Path) -> None:
    told: list[Event] = []
    sink = segments(small_disk, told=told, when_full="drop_oldest")
    sink.open()
    feed(sink, range(3000))
    ended(sink)
    (small_disk / "recordings" / files(small_disk)[0]).unlink()
    sink.open()
    sink.close()
    assert [(event.kind, event.source, event.reason) for event in told] == [
        ("storage_full", "gate", "the oldest recordings are removed")
    ]
    found = listed(small_disk)
    assert [kept.path for kept in found] == files(small_disk)
    assert found[0].start_ns > WALL_NS
    assert found[-1].end_ns == WALL_NS + 2999 * 40_000_000
    assert sum(kept.frames for kept in found) == (found[-1].end_ns - found[0].start_ns) // 40_000_000 + 1


@pytest.mark.parametrize("when_full", ["drop_oldest", "stop"])
def test_what_is_removed_for_the_index_is_told_as_well(tmp_path: Path, when_full: str) -> None:
    told: list[Event] = []
    sink = segments(tmp_path, told=told, when_full=when_full)
    sink.open()
    feed(sink, range(60))
    settled(sink)
    full = [OSError(errno.ENOSPC, "No space left on device")]

    def work(_: Archive) -> str:
        if full:
            raise full.pop()
        return "done"

    dropped = when_full == "drop_oldest"
    assert sink._storage.do(work, room_at_s=2.5).result() == ("done" if dropped else None)
    assert [(event.kind, event.stream_s) for event in told] == [("storage_full", 2.5)] * dropped
    assert len(listed(tmp_path)) == 1 - dropped
    sink.close()


def test_on_a_full_disk_it_stops_where_nothing_may_go(small_disk: Path) -> None:
    told: list[Event] = []
    sink = segments(small_disk, told=told)
    sink.open()
    with pytest.raises(RuntimeFailure, match="No space left on device; what was recorded before is kept"):
        feed(sink, range(3000))
    sink.close()
    assert [(event.kind, event.reason) for event in told] == [("recording_stopped", "the disk is full")]
    assert len(files(small_disk)) > 2


def test_an_index_that_is_locked_is_no_mistake_in_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sinks.archive._BUSY_S", 0.0)
    sink = segments(tmp_path)
    (tmp_path / "recordings").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "recordings" / FILE, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RuntimeFailure, match="database is locked"):
            sink.open()
        database.execute("ROLLBACK")
        sink.open()
        sink.close()
        database.executescript("DROP TABLE files; CREATE TABLE files (name TEXT)")
    with pytest.raises(ConfigError, match="is not an index of recordings: no such column"):
        sink.open()
    sink.close()


def test_only_what_has_our_names_goes_where_the_index_lists_nothing(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    sink.open()
    feed(sink, range(20))
    ended(sink)
    [ours] = files(tmp_path)
    place = tmp_path / "recordings"
    day = Path(ours).parent
    theirs = [Path("photos/wedding.jpg"), Path("photos") / Path(ours).name, day / "notes.mp4", day / "kept/a.mp4"]
    for path in theirs:
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).touch()
        os.utime(place / path, (0, 0))
    with contextlib.closing(Archive(place)) as archive, contextlib.closing(sqlite3.connect(place / FILE)) as database:
        with database:
            database.execute("DROP TABLE files")
        assert archive.drop_oldest() == [ours]
        assert archive.drop_oldest() == []
    assert all((place / path).exists() for path in theirs)


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


def test_an_index_that_fails_does_not_stop_the_recording(tmp_path: Path) -> None:
    sink = segments(tmp_path)
    sink.open()
    with contextlib.closing(sqlite3.connect(tmp_path / "recordings" / "index.sqlite")) as database:
        database.execute("DROP TABLE files")
    feed(sink, range(120))
    ended(sink)
    assert len(files(tmp_path)) == 3
    sink.open()
    sink.close()
    assert len(listed(tmp_path)) == 3


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
