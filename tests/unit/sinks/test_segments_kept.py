"""How long segments are kept: by age, by size, on a full disk, and with an index that is lost or locked."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks.archive import FILE, Archive, Gap, Kept
from pipeline.types import Event
from tests.unit.sinks.recordings import SMALL, WALL_NS, encode_with, new_encoder
from tests.unit.sinks.segmented import ended, feed, files, index, listed, segments, settled


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


def test_a_directory_that_is_removed_is_begun_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the next segment, and without a word of a full disk; what was in it is counted."""
    told: list[Event] = []
    sink = segments(tmp_path, told=told)
    sink.open()
    encoder = new_encoder(SMALL)
    sink.start(encoder.stream)
    for number, packet in enumerate(encode_with(encoder, range(300), None, sink.wish)):
        if number == 130:
            settled(sink)
            shutil.rmtree(tmp_path / "recordings")
        sink.write(packet)
    ended(sink)
    assert [(kept.frames, kept.path) for kept in listed(tmp_path)] == [(50, path) for path in files(tmp_path)]
    assert len(files(tmp_path)) == 3
    said = [record.getMessage() for record in caplog.records if "is begun anew" in record.getMessage()]
    assert len(said) == 1
    assert "without 2 files of" in said[0]
    assert told == []


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
