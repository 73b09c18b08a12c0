from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from pathlib import Path

import jsonschema
import msgspec
import pytest

from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.sinks import event_log
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.schema import event_schema, parse
from pipeline.types import EVIDENCE_NUMBERS, Evidence
from tests.unit.sinks.events import event


def test_events_are_numbered_in_order_and_found_again(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    first = log.append("gate", [event(1), event(2)], position=2)
    second = log.append("yard", [event(3, source="yard")], position=1)
    assert [(e["seq"], e["track"], e["log_id"]) for e in first + second] == [(n, n, log.log_id) for n in (1, 2, 3)]
    assert log.after(0, 10) == first + second
    assert log.after(1, 1) == [first[1]]
    log.close()
    again = EventLog(tmp_path / "events.db")
    assert again.log_id == log.log_id
    assert again.after(0, 10) == first + second
    assert (again.position("gate"), again.position("yard"), again.position("door")) == (2, 1, 0)
    again.close()
    again.close()


def test_the_form_is_the_published_one(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    sent = [event(1), event(1, "update", stream_s=2.0), event(1, "end")]
    for line in log.append("gate", sent, position=3):
        jsonschema.validate(line, event_schema(), format_checker=jsonschema.FormatChecker())
        assert list(line) == [
            *("schema_version", "log_id", "seq", "id", "phase", "kind", "source", "track"),
            *("t_start", "t_end", "stream_s", "confidence", "reason"),
            *("number", "t_update", "confidence_best", "zone", "faces", "share", "model", "model_sha256", "evidence"),
        ]
    log.close()
    jsonschema.Draft202012Validator.check_schema(event_schema())


def test_an_event_that_comes_again_gets_no_second_number(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    steps = [event(1), event(1, "update", stream_s=2.0), event(1, "update", stream_s=3.0), event(1, "end")]
    assert [e["seq"] for e in log.append("gate", steps, position=4)] == [1, 2, 3, 4]
    assert [e["seq"] for e in log.append("gate", [*steps[1:], event(2)], position=5)] == [5]
    assert len(log.after(0, 100)) == 5
    log.close()


def test_each_sink_has_a_cursor(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    assert log.cursor("file") == 0
    log.set_cursor("file", 7)
    log.set_cursor("file", 9)
    assert (log.cursor("file"), log.cursor("socket")) == (9, 0)
    log.close()


def test_killed_at_any_moment_nothing_is_lost_or_numbered_twice(tmp_path: Path) -> None:
    path, rng, count = tmp_path / "events.db", random.Random(1), 1500
    EventLog(path).close()
    deaths = 0
    while True:
        pid = os.fork()
        if pid == 0:
            log = EventLog(path)
            while (taken := log.position("gate")) < count:
                log.append("gate", [event(taken + n) for n in range(10)], position=taken + 10)
            os._exit(0)
        time.sleep(rng.uniform(0.005, 0.03))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        log = EventLog(path)
        position = log.position("gate")
        tracks = [e["track"] for e in log.after(0, 2 * count)]
        log.close()
        assert tracks == list(range(position))
        deaths += position < count
        if position >= count:
            break
    assert deaths


@pytest.fixture
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "KEPT_EVENTS", 100)
    monkeypatch.setattr(event_log, "PRUNE_EVERY", 10)


@pytest.mark.usefixtures("few_kept")
def test_it_does_not_grow_for_ever_and_no_number_comes_twice(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    log = EventLog(path)
    numbers, sizes = [], []
    for count in range(300):
        if count % 50 == 49:  # what is new after a restart has a new number as well
            log.close()
            log = EventLog(path)
        numbers += [e["seq"] for e in log.append("gate", [event(10 * count + n) for n in range(10)], position=count)]
        log.set_cursor("file", numbers[-1])
        log.set_cursor("socket", numbers[-1] - 3)
        sizes.append(path.stat().st_size)
    assert numbers == list(range(1, 3001))
    left = log.after(0, 10_000)
    assert [e["seq"] for e in left] == list(range(2901, 3001))
    assert log.append("gate", [event(e["track"]) for e in left], position=301) == [], "the newest are still known"
    assert log.append("gate", [event(3000)], position=302)[0]["seq"] == 3001
    assert sizes[-1] <= 1.1 * sizes[100]
    log.close()


@pytest.mark.usefixtures("few_kept")
def test_what_a_sink_has_not_had_is_kept(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    for count in range(50):
        log.append("gate", [event(10 * count + n) for n in range(10)], position=count)
        log.set_cursor("file", 10 * count)
        log.set_cursor("disconnected", min(42, 10 * count))
    assert log.after(0, 1)[0]["seq"] == 43
    assert len(log.after(42, 1000)) == 458
    log.close()


def test_it_is_fast_enough_for_a_crowd(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    events = [event(n) for n in range(5120)]
    start_s = time.process_time()
    for first in range(0, len(events), 256):
        log.append("gate", events[first : first + 256], position=first + 256)
    assert time.process_time() - start_s < 1.0
    log.close()


def test_other_files_and_places_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at by SQLite " * 4)
    with pytest.raises(ConfigError, match=r"text\.db is not an event log"):
        EventLog(tmp_path / "text.db")
    with pytest.raises(StartupError, match="missing"):
        EventLog(tmp_path / "missing" / "events.db")
    newer = sqlite3.connect(tmp_path / "newer.db")
    newer.execute("PRAGMA user_version = 9")
    newer.close()
    with pytest.raises(ConfigError, match="newer version"):
        EventLog(tmp_path / "newer.db")


def test_what_cannot_be_stored_is_a_runtime_failure_and_takes_nothing(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.db")
    other = sqlite3.connect(tmp_path / "events.db")
    other.execute("DROP TABLE positions")
    with pytest.raises(RuntimeFailure, match=r"events\.db"):
        log.append("gate", [event(1)], position=1)
    assert log.after(0, 10) == []
    other.close()
    log.close()


@pytest.mark.parametrize(
    "line", [b"", b"null", b"[]", b"{}", b"\xff", b'{"seq": 1e999}', b'{"a":' * 100_000, b'{"schema_version": 1}']
)
def test_what_is_no_event_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        parse(line)


def test_an_update_tells_of_its_evidence(tmp_path: Path) -> None:
    file = Evidence("clip", "/evidence/2026-11-22/a-clip.mp4", 1000, "a" * 64)
    update = msgspec.structs.replace(event(1, "update"), number=EVIDENCE_NUMBERS, evidence=(file,))
    log = EventLog(tmp_path / "events.db")
    [line] = log.append("gate", [update], position=1)
    assert line["evidence"] == [{"kind": "clip", "path": file.path, "bytes": 1000, "sha256": "a" * 64}]
    jsonschema.validate(line, event_schema())
    assert log.after(0, 1) == [line]
    log.close()
