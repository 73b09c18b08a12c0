"""The events stage: everything into the log and to every sink; and what cannot be logged or delivered is said."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.errors import Disconnected, RuntimeFailure, StartupError
from pipeline.sinks import delivery as delivery_module
from pipeline.sinks import events_stage
from pipeline.sinks.delivery import Delivery
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.events_stage import FAREWELL_S, LOG_RETRY_S, REMOVE_EVERY_S, EventsStage, OutboxInlet
from pipeline.sinks.sink import Accepts
from pipeline.transport.results import ResultLog
from pipeline.types import FrameRef, Result
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeBell, as_listener, event_of


class FakeEventSink:
    """Keeps the numbers of what it was given; fails as it is told."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, fails: Exception | None = None, after: int = 0) -> None:
        self.got: list[int] = []
        self.fails = fails
        self._after = after

    def open(self, log_id: str) -> int | None:
        return None

    def write(self, event: dict[str, Any]) -> None:
        if self.fails and len(self.got) >= self._after:
            raise self.fails
        self.got.append(event["seq"])

    def beat(self, seq: int) -> None: ...

    def close(self) -> None: ...


class Bench:
    """One source's outbox, a log and sinks whose threads are real."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "log" / "events.sqlite"
        self.results = ResultLog.create(directory, "gate")
        self.now_s = 0.0
        self.retention_s: float | None = None
        self.log: EventLog | None = None

    def events(self, count: int) -> None:
        for seq in range(self.results.published, self.results.published + count):
            result = Result(FrameRef("gate", seq, 0, seq / 25, 0, 0), (), True)
            self.results.commit(result, [event_of(seq)], None)

    def _create_log(self) -> EventLog:
        self.log = EventLog(self.path, "run-1")
        return self.log

    def stage(self, *, restarted: bool = False, **sinks: FakeEventSink) -> EventsStage:
        inlet = OutboxInlet("gate", ResultLog.attach(self.directory, "gate"), as_listener(FakeBell()))
        deliveries = [
            Delivery(name, sink, frozenset(["gate"]), self.directory / "cursors" / name) for name, sink in sinks.items()
        ]
        stage = EventsStage(
            "events",
            [inlet],
            deliveries,
            self._create_log,
            retention_s=self.retention_s,
            restarted=restarted,
            clock=lambda: self.now_s,
        )
        stage.open()
        return stage

    def logged(self) -> list[dict[str, Any]]:
        with closing(EventReader(self.path)) as reader:
            return reader.after(0, 1_000_000)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.001)
    return Bench(tmp_path)


def work(stage: EventsStage) -> None:
    while stage.step() == 0:
        pass


def to_the_end(stage: EventsStage) -> None:
    wait_until(lambda: stage.step() is None, "the end of the stage")
    stage.close()


def test_every_sink_gets_everything_in_order(bench: Bench) -> None:
    one, two = FakeEventSink(), FakeEventSink()
    stage = bench.stage(one=one, two=two)
    bench.events(300)
    work(stage)
    assert bench.results.events_taken == 300
    bench.events(5)
    bench.results.finish([])
    to_the_end(stage)
    assert one.got == two.got == list(range(1, 306))
    assert stage.counters["one.sent"] == stage.counters["logged"] == 305
    stage.close()


def test_without_any_sink_it_keeps_the_log(bench: Bench) -> None:
    stage = bench.stage()
    bench.events(3)
    bench.results.finish([])
    to_the_end(stage)
    assert [event["seq"] for event in bench.logged()] == [1, 2, 3]


def test_a_restarted_stage_goes_on_where_it_was(bench: Bench) -> None:
    first = FakeEventSink()
    stage = bench.stage(one=first)
    bench.events(3)
    work(stage)
    wait_until(lambda: len(first.got) == 3, "three events")
    bench.events(2)
    stage.close()
    second = FakeEventSink()
    stage = bench.stage(one=second)
    bench.results.finish([])
    to_the_end(stage)
    assert (first.got, second.got) == ([1, 2, 3], [4, 5])


def test_a_sink_that_is_not_there_holds_nobody_up_and_gets_everything(bench: Bench) -> None:
    sink, other = FakeEventSink(Disconnected("not there"), after=2), FakeEventSink()
    stage = bench.stage(one=sink, two=other)
    bench.events(4)
    work(stage)
    wait_until(lambda: other.got == [1, 2, 3, 4], "the other's events")
    wait_until(lambda: stage.counters["one.retries"] > 2, "some attempts")
    assert (sink.got, stage.counters["one.behind"]) == ([1, 2], 2)
    sink.fails = None
    bench.results.finish([])
    to_the_end(stage)
    assert sink.got == [1, 2, 3, 4]


@pytest.mark.parametrize("kept", [False, True])
def test_what_could_not_be_delivered_in_the_end_is_said(
    bench: Bench, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    bench.retention_s = 3600 if kept else None
    sink = FakeEventSink(Disconnected("not there"), after=1)
    stage = bench.stage(one=sink)
    bench.events(3)
    bench.results.finish([])
    work(stage)
    wait_until(lambda: sink.got == [1], "the first event")
    assert stage.step()
    bench.now_s += FAREWELL_S + 0.1
    if kept:
        assert stage.step() is None
        assert "sink one: 2 events could not be delivered yet; the next run does it" in caplog.text
    else:
        with pytest.raises(RuntimeFailure, match="sink one: 2 events could not be delivered"):
            stage.step()
    stage.close()


def test_one_sink_that_fails_for_good_does_not_silence_the_others(bench: Bench) -> None:
    failing, other = FakeEventSink(RuntimeFailure("no use"), after=1), FakeEventSink()
    stage = bench.stage(one=failing, two=other)
    bench.events(5)
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="no use"):
        to_the_end(stage)
    stage.close()
    assert (failing.got, other.got) == ([1], [1, 2, 3, 4, 5])


def test_an_error_that_nobody_meant_holds_up_its_own_sink_alone(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    failing, other = FakeEventSink(ValueError("Bearer hunter2")), FakeEventSink()
    stage = bench.stage(one=failing, two=other)
    bench.events(3)
    work(stage)
    wait_until(lambda: other.got == [1, 2, 3] and stage.counters["one.retries"] > 1, "the retries")
    failing.fails = None
    bench.results.finish([])
    to_the_end(stage)
    assert failing.got == [1, 2, 3]
    assert "sink one: an error that nobody expected (ValueError in test_events_stage.py:" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_log_goes_on_without_its_only_sink(bench: Bench) -> None:
    stage = bench.stage(one=FakeEventSink(RuntimeFailure("no use")))
    bench.events(1)
    work(stage)
    wait_until(lambda: stage._deliveries[0].failed is not None, "the failure")
    bench.events(2)
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="no use"):
        to_the_end(stage)
    stage.close()
    assert len(bench.logged()) == 3


def test_at_the_end_a_slow_sink_is_waited_for_as_long_as_it_gets_on(bench: Bench) -> None:
    class SlowSink(FakeEventSink):
        def write(self, event: dict[str, Any]) -> None:
            super().write(event)
            bench.now_s += 0.9 * FAREWELL_S

    sink = SlowSink()
    stage = bench.stage(one=sink)
    bench.events(10)
    bench.results.finish([])
    to_the_end(stage)
    assert sink.got == list(range(1, 11))


def test_what_is_said_with_the_end_is_delivered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference ends between this stage's look for the end and its look into the outbox."""
    sink = FakeEventSink()
    stage = bench.stage(one=sink)
    bench.events(1)
    take = OutboxInlet.take

    def end_meanwhile(inlet: OutboxInlet, event_log: EventLog) -> int:
        count = take(inlet, event_log)
        bench.results.finish([event_of(99)])
        return count

    monkeypatch.setattr(OutboxInlet, "take", end_meanwhile)
    to_the_end(stage)
    assert sink.got == [1, 2]


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


def test_a_sink_that_cannot_be_opened_after_a_restart_is_opened_later(bench: Bench) -> None:
    class LateSink(FakeEventSink):
        opened = 0

        def open(self, log_id: str) -> int | None:
            self.opened += 1
            if self.opened == 1:
                raise Disconnected("event log: database is locked")
            return None

    one, two = FakeEventSink(), LateSink()
    stage = bench.stage(restarted=True, one=one, two=two)
    bench.events(3)
    bench.now_s += LOG_RETRY_S
    bench.results.finish([])
    to_the_end(stage)
    assert one.got == two.got == [1, 2, 3]


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
