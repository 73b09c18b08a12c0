"""The events stage and its disk: a log that is full, or that has to stay small."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from pipeline.errors import Disconnected, RuntimeFailure, StartupError
from pipeline.sinks import delivery as delivery_module
from pipeline.sinks import events_stage
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.events_stage import FAREWELL_S, LOG_RETRY_S, REMOVE_EVERY_S
from pipeline.transport.results import ResultLog
from tests.runs import wait_until
from tests.unit.stages.events_bench import Bench, FakeEventSink, to_the_end, work
from tests.unit.stages.fakes import event_of


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.001)
    return Bench(tmp_path)


def test_while_the_disk_is_full_events_wait_and_what_finds_no_room_is_counted(bench: Bench) -> None:
    sink = FakeEventSink()
    bench.results.close()
    bench.results = ResultLog.create(bench.directory, "gate", outbox=100)
    stage = bench.stage(one=sink)
    bench.events(10)
    work(stage)
    assert bench.log is not None
    fill(bench.log)
    bench.events(60)
    work(stage)
    assert stage.counters["waiting_for_room"] == 1
    bench.events(40)
    bench.results.count_lost_events(23)  # as inference does where the outbox is full
    work(stage)
    assert bench.results.events_taken == 10
    free(bench.log)
    work(stage)
    assert bench.results.events_taken == 10, "it does not try without a pause"
    bench.now_s += LOG_RETRY_S
    work(stage)
    assert bench.results.events_taken == 110
    bench.results.finish([])
    to_the_end(stage)
    logged = bench.logged()
    assert [e["seq"] for e in logged] == sink.got == list(range(1, 112))
    assert [(n, e["lost"]) for n, e in enumerate(logged) if e["kind"] == "events_lost"] == [(10, 23)]
    assert [e["stream_s"] for e in logged if e["kind"] != "events_lost"] == [event_of(n).stream_s for n in range(110)]


def test_events_that_cannot_be_logged_in_the_end_are_a_failure(bench: Bench) -> None:
    stage = bench.stage()
    assert bench.log is not None
    fill(bench.log)
    bench.events(60)
    bench.results.finish([])
    work(stage)
    bench.now_s += FAREWELL_S + 0.1
    with pytest.raises(RuntimeFailure, match=r"full; the last events could not be logged"):
        work(stage)
    stage.close()


def test_a_disk_that_is_full_at_the_start_is_refused_and_after_a_restart_waited_for(bench: Bench) -> None:
    def no_room() -> EventLog:
        raise Disconnected("database or disk is full")

    create, bench._create_log = bench._create_log, no_room  # type: ignore[method-assign]
    with pytest.raises(StartupError, match="full"):
        bench.stage()
    sink = FakeEventSink()
    stage = bench.stage(restarted=True, one=sink)
    bench.events(3)
    work(stage)
    assert stage.counters["waiting_for_room"] == 1
    stage._create_log = create
    bench.now_s += LOG_RETRY_S
    bench.results.finish([])
    to_the_end(stage)
    assert sink.got == [1, 2, 3]


def fill(log: EventLog) -> None:
    """From now on the log has no room."""
    database: sqlite3.Connection | None = log._database
    assert database is not None
    database.execute("CREATE TABLE ballast (a)")
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):  # noqa: PT012
        while True:
            database.execute("INSERT INTO ballast VALUES (zeroblob(100))")


def free(log: EventLog) -> None:
    assert log._database is not None
    log._database.execute("PRAGMA max_page_count = 1000000")


def test_a_log_that_ends_with_the_run_does_not_grow_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_stage, "KEPT_EVENTS", 100)
    sink = FakeEventSink()
    stage = bench.stage(one=sink)
    for _ in range(5):
        bench.events(200)
        work(stage)
        wait_until(lambda: stage.counters["one.behind"] == 0, "the events")
        bench.now_s += REMOVE_EVERY_S
        work(stage)
    assert [e["seq"] for e in bench.logged()] == list(range(901, 1001))
    sink.fails = Disconnected("gone")
    bench.events(300)
    work(stage)
    bench.now_s += REMOVE_EVERY_S
    work(stage)
    assert bench.logged()[0]["seq"] == 1001, "what the sink has not had stays, and the newest"
    stage.close()


def test_a_log_that_is_kept_is_cut_by_age(bench: Bench) -> None:
    bench.retention_s = 0.001
    stage = bench.stage()
    bench.events(10)
    work(stage)
    wait_until(lambda: (stage._remove(bench.log), bench.logged())[1] == [], "the removal")  # type: ignore[arg-type]
    bench.events(1)
    bench.results.finish([])
    to_the_end(stage)
    assert bench.log is not None
    assert bench.log.newest == 11
