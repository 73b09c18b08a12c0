from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline.errors import ConfigError, Disconnected, RuntimeFailure, StartupError
from pipeline.sinks import event_log, event_reader
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import Bounds, EventReader, Gap
from pipeline.sinks.schema import event_schema
from tests.unit.sinks.events import OTHER_LOG_ID, event

RUN = "run-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site" / "events.sqlite"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    with closing(EventLog(path, RUN)) as log:
        yield log


@pytest.fixture
def reader(path: Path, log: EventLog) -> Iterator[EventReader]:
    with closing(EventReader(path)) as reader:
        yield reader


def all_of(path: Path) -> list[dict[str, Any]]:
    with closing(EventReader(path)) as reader:
        return reader.after(0, 1_000_000)


def test_events_are_numbered_in_order_and_found_again(path: Path, log: EventLog, reader: EventReader) -> None:
    assert reader.bounds == Bounds(1, 0)
    assert log.append([event(1), event(2)], outbox=("gate", 2, 0)) == 2
    assert log.append([event(3, source="yard")], outbox=("yard", 1, 4)) == 1
    found = reader.after(0, 10)
    assert [(e["seq"], e["track"], e["log_id"]) for e in found] == [(n, n, log.log_id) for n in (1, 2, 3)]
    assert reader.after(1, 1) == [found[1]]
    assert reader.before(None, 2) == [found[2], found[1]]
    assert reader.before(2, 2) == [found[0]]
    assert reader.after(0, 10, sources=["yard", "door"], kinds=["no_mask"]) == [found[2]]
    assert reader.after(0, 10, kinds=["crowding"]) == reader.after(0, 10, sources=[]) == []
    assert reader.bounds == Bounds(1, 3)
    log.close()
    with closing(EventLog(path, RUN)) as again:
        assert again.log_id == log.log_id == reader.log_id
        assert (again.newest, all_of(path)) == (3, found)
        assert [again.outbox(name) for name in ("gate", "yard", "door")] == [(2, 0), (1, 4), (0, 0)]
    again.close()


def test_nobody_but_its_user_can_read_it(path: Path, log: EventLog) -> None:
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_form_is_the_published_one(log: EventLog, reader: EventReader) -> None:
    log.append([event(1), event(1, "update", stream_s=2.0), event(1, "end")])
    for line in reader.after(0, 10):
        jsonschema.validate(line, event_schema(), format_checker=jsonschema.FormatChecker())
        assert list(line) == list(event_schema()["properties"])
    jsonschema.Draft202012Validator.check_schema(event_schema())


def test_an_event_that_comes_again_gets_no_second_number(log: EventLog, reader: EventReader) -> None:
    steps = [event(1), event(1, "update", number=1), event(1, "update", number=2), event(1, "end")]
    assert log.append(steps) == 4
    assert log.append([*steps[1:], event(2)]) == 1
    assert [(e["seq"], e["track"], e["phase"]) for e in reader.after(3, 100)] == [(4, 1, "end"), (5, 2, "new")]


def test_what_an_earlier_run_left_open_ends_with_the_next(path: Path, log: EventLog) -> None:
    log.append(
        [
            event(1),
            event(2),
            event(1, "end"),
            event(3),
            event(3, "update", number=1, t_update="2026-11-18T12:00:00.000Z"),
        ]
    )
    log.append([event(4)], outbox=("gate", 9, 2))
    log.close()
    with closing(EventLog(path, RUN)) as same, closing(EventReader(path)) as reader:
        assert (same.newest, len(reader.open_episodes())) == (6, 3)
    with closing(EventLog(path, "run-2")) as following, closing(EventReader(path)) as reader:
        ends = reader.after(6, 100)
        assert [(e["track"], e["phase"], e["reason"], e["t_end"]) for e in ends] == [
            (2, "end", "restarted", event(2).t_start),
            (3, "end", "restarted", "2026-11-18T12:00:00.000Z"),
            (4, "end", "restarted", event(4).t_start),
        ]
        assert reader.open_episodes() == []
        assert (following.run_after, following.newest) == (6, 9)
        assert following.outbox("gate") == (0, 0), "it is another run's outbox"
    with closing(EventLog(path, "run-2")) as again:
        assert (again.run_after, again.newest) == (6, 9)


def test_killed_at_any_moment_nothing_is_lost_or_numbered_twice(path: Path) -> None:
    rng, count = random.Random(1), 1500
    EventLog(path, RUN).close()
    deaths = 0
    while True:
        pid = os.fork()
        if pid == 0:
            log = EventLog(path, RUN)
            while (taken := log.outbox("gate")[0]) < count:
                log.append([event(taken + n) for n in range(10)], outbox=("gate", taken + 10, 0))
            os._exit(0)
        time.sleep(rng.uniform(0.005, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        with closing(EventReader(path)) as reader:  # readable with the dead writer's leavings beside it
            found = reader.after(0, 2 * count)
        with closing(EventLog(path, RUN)) as log:
            position = log.outbox("gate")[0]
            assert log.newest == position
        assert [(e["seq"], e["track"]) for e in found] == [(n + 1, n) for n in range(position)]
        deaths += position < count
        if position >= count:
            break
    assert deaths


def test_killed_between_any_two_writes_it_is_readable(path: Path, log: EventLog, tmp_path: Path) -> None:
    """What is stored goes to the end of one file, page by page: a death leaves a part of it, wherever it is cut off."""
    for taken in range(0, 24, 3):
        log.append([event(taken + n) for n in range(3)], outbox=("gate", taken + 3, 0))
    journal = path.with_name("events.sqlite-wal").read_bytes()
    left = tmp_path / "left" / path.name
    left.parent.mkdir()
    positions = []
    for length in [*range(0, len(journal), 3090), len(journal)]:  # three quarters of a page
        left.write_bytes(path.read_bytes())
        left.with_name("events.sqlite-shm").unlink(missing_ok=True)
        left.with_name("events.sqlite-wal").write_bytes(journal[:length])
        with closing(EventLog(left, RUN)) as again:
            positions.append(again.outbox("gate")[0])
            assert again.newest == positions[-1]
        assert [(e["seq"], e["track"]) for e in all_of(left)] == [(n + 1, n) for n in range(positions[-1])]
    assert positions == sorted(positions)
    assert set(positions) == set(range(0, 25, 3))


def test_old_events_go_and_no_number_comes_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "REMOVED_AT_ONCE", 50)
    now_ns = 1000
    with closing(EventLog(path, RUN, clock_ns=lambda: now_ns)) as log, closing(EventReader(path)) as reader:
        log.append([event(n) for n in range(100)])
        now_ns = 2000
        log.append([event(n) for n in range(100, 200)])
        now_ns = 500  # set back; the log's time does not go back
        log.append([event(n) for n in range(200, 210)])
        assert reader.cursor_since(1000) == 0
        assert reader.cursor_since(1001) == reader.cursor_since(2000) == 100
        assert reader.cursor_since(2001) == 210
        assert log.remove(before_ns=2000)
        assert log.remove(before_ns=2000)
        assert not log.remove(before_ns=2000)
        assert reader.bounds == Bounds(101, 210)
        assert not log.remove(up_to=120)
        assert reader.bounds == Bounds(121, 210)
        while log.remove(up_to=1000):
            pass
        assert reader.bounds == Bounds(211, 210)
        assert log.append([event(999)]) == 1
        assert [e["seq"] for e in reader.after(0, 10)] == [211]


def test_a_cursor_that_does_not_fit_is_told_where_to_go_on(log: EventLog, reader: EventReader) -> None:
    log.append([event(n) for n in range(10)])
    log.remove(up_to=4)
    assert reader.gap(log.log_id, 4) is reader.gap(None, 10) is None
    assert reader.gap(log.log_id, 3) == Gap("retention", log.log_id, 5)
    assert reader.gap(OTHER_LOG_ID, 4) == reader.gap(log.log_id, 11) == Gap("other_log", log.log_id, 5)


@pytest.mark.parametrize("sync_every_event", [False, True])
def test_it_is_fast_enough_for_a_crowd(path: Path, sync_every_event: bool) -> None:
    """5,000 events in less than a second of processor; what a disk takes to sync is its own affair."""
    events = [event(n) for n in range(5120)]
    with closing(EventLog(path, RUN, sync_every_event=sync_every_event)) as log:
        start_s = time.process_time()
        for first in range(0, len(events), 256):
            log.append(events[first : first + 256], outbox=("gate", first + 256, 0))
        assert time.process_time() - start_s < 1.0
        assert log.newest == 5120


def test_other_files_and_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at by SQLite " * 4)
    for opened in (lambda path: EventLog(path, RUN), EventReader):
        with pytest.raises(ConfigError, match=r"text\.db is not an event log"):
            opened(tmp_path / "text.db")
    with pytest.raises(StartupError, match="cannot be written"):
        EventLog(tmp_path / "text.db" / "events.db", RUN)
    with pytest.raises(ConfigError, match="there is no event log at"):
        EventReader(tmp_path / "missing.db")
    for name, version, table in (("newer", 9, "events"), ("older", 1, "events"), ("foreign", 0, "people")):
        other = sqlite3.connect(tmp_path / f"{name}.db")
        other.execute(f"CREATE TABLE {table} (a)")
        other.execute(f"PRAGMA user_version = {version}")
        other.close()
        with pytest.raises(ConfigError, match="newer version" if name == "newer" else "not an event log of this"):
            EventLog(tmp_path / f"{name}.db", RUN)


def test_a_log_that_is_being_made_is_not_there_yet(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_in_between(*_: object) -> str:
        with pytest.raises(ConfigError, match="is not an event log of this version"):
            EventReader(path)
        return OTHER_LOG_ID

    monkeypatch.setattr(event_log, "ulid", look_in_between)
    with closing(EventLog(path, RUN)), closing(EventReader(path)) as reader:
        assert reader.log_id == OTHER_LOG_ID
    half = tmp_path / "half.sqlite"
    with closing(sqlite3.connect(half)) as database:
        database.executescript(event_log._TABLES + "COMMIT")
    with pytest.raises(ConfigError, match=r"there is no event log at .* yet"):
        EventReader(half)


def test_what_cannot_be_read_now_is_not_taken_for_another_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_reader, "BUSY_TIMEOUT_S", 0.01)
    EventLog(path, RUN).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Disconnected, match=r"events\.sqlite: database is locked"):
            EventReader(path)
        other.execute("ROLLBACK")
        EventReader(path).close()
        other.execute("DROP TABLE log")
    with pytest.raises(ConfigError, match="no such table: log"):
        EventReader(path)


def test_numbers_of_any_length_can_be_asked_for(log: EventLog, reader: EventReader) -> None:
    log.append([event(1)])
    huge = 10**30
    assert reader.after(huge, 9) == reader.before(-huge, 9) == []
    assert len(reader.after(-huge, 9)) == len(reader.before(huge, 9)) == 1
    assert (reader.cursor_since(huge), reader.cursor_since(-huge)) == (1, 0)


def test_two_do_not_write_one_log(path: Path, log: EventLog) -> None:
    with pytest.raises(StartupError, match="another run is writing it"):
        EventLog(path, "run-2")


def test_a_full_disk_is_waited_for_and_nothing_is_half_there(path: Path, log: EventLog, reader: EventReader) -> None:
    assert log._database is not None
    pages = log._database.execute("PRAGMA page_count").fetchone()[0]
    log._database.execute(f"PRAGMA max_page_count = {pages + 2}")
    stored = 0

    def store_ten() -> None:
        log.append([event(stored + n) for n in range(10)], outbox=("gate", stored + 10, 0))

    with pytest.raises(Disconnected, match="full"):  # noqa: PT012  some go in before it is
        while stored < 10_000:
            store_ten()
            stored += 10
    assert (log.outbox("gate"), reader.bounds.newest) == ((stored, 0), stored)
    log._database.execute("PRAGMA max_page_count = 100000")
    store_ten()
    assert [e["seq"] for e in reader.after(0, 100_000)] == list(range(1, stored + 11))


def test_what_cannot_be_stored_at_all_is_a_failure_and_takes_nothing(path: Path, log: EventLog) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE outboxes")
    with pytest.raises(RuntimeFailure, match=r"events\.sqlite"):
        log.append([event(1)], outbox=("gate", 1, 0))
    assert all_of(path) == []
