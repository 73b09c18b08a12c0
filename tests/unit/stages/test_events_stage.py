"""The events stage: everything to every sink, once, in order; and what cannot be delivered is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.errors import Disconnected, PipelineError, RuntimeFailure
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.events_stage import FAREWELL_S, RETRY_S, EventsStage, Inlet, Outlet
from pipeline.sinks.sink import Accepts
from pipeline.transport.results import ResultLog
from pipeline.types import FrameRef, Result
from tests.unit.stages.fakes import FakeBell, as_listener, event_of


class FakeEventSink:
    """Keeps the numbers of what it was given; fails as it is told."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, fails: PipelineError | None = None, after: int = 0) -> None:
        self.got: list[int] = []
        self.fails = fails
        self._after = after

    def open(self, log_id: str) -> int | None:
        return None

    def write(self, event: dict[str, Any]) -> None:
        if self.fails and len(self.got) >= self._after:
            raise self.fails
        self.got.append(event["seq"])

    def close(self) -> None: ...


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = ResultLog.create(directory, "gate")
        self.now_s = 0.0

    def events(self, count: int) -> None:
        for seq in range(self.results.published, self.results.published + count):
            result = Result(FrameRef("gate", seq, 0, seq / 25, 0, 0), (), True)
            self.results.commit(result, [event_of(seq)], None)

    def stage(self, **sinks: FakeEventSink) -> EventsStage:
        inlets = {"gate": Inlet(ResultLog.attach(self.directory, "gate"), as_listener(FakeBell()))}
        outlets = [Outlet(name, sink, frozenset(["gate"])) for name, sink in sinks.items()]
        stage = EventsStage(
            "events", inlets, outlets, lambda: EventLog(self.directory / "log"), clock=lambda: self.now_s
        )
        stage.open()
        return stage


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def work(stage: EventsStage) -> float | None:
    while (wait_s := stage.step()) == 0:
        pass
    return wait_s


def test_every_sink_gets_everything_in_order(bench: Bench) -> None:
    one, two = FakeEventSink(), FakeEventSink()
    stage = bench.stage(one=one, two=two)
    bench.events(300)
    assert work(stage)
    bench.events(5)
    bench.results.finish([])
    assert work(stage) is None
    assert one.got == two.got == list(range(1, 306))
    assert bench.results.events_taken == 305
    stage.close()
    stage.close()


def test_a_restarted_stage_goes_on_where_it_was(bench: Bench) -> None:
    first = FakeEventSink()
    stage = bench.stage(one=first)
    bench.events(3)
    work(stage)
    bench.events(2)
    stage.close()
    second = FakeEventSink()
    stage = bench.stage(one=second)
    bench.results.finish([])
    assert work(stage) is None
    assert (first.got, second.got) == ([1, 2, 3], [4, 5])
    stage.close()


def test_a_sink_that_is_not_there_is_tried_again(bench: Bench) -> None:
    sink, other = FakeEventSink(Disconnected("not there"), after=2), FakeEventSink()
    stage = bench.stage(one=sink, two=other)
    bench.events(4)
    assert work(stage)
    assert (sink.got, other.got) == ([1, 2], [1, 2, 3, 4])
    sink.fails = None
    assert work(stage)
    assert sink.got == [1, 2]
    bench.now_s += RETRY_S
    assert work(stage)
    assert sink.got == [1, 2, 3, 4]
    stage.close()


def test_what_could_not_be_delivered_in_the_end_is_said(bench: Bench) -> None:
    stage = bench.stage(one=FakeEventSink(Disconnected("not there"), after=1))
    bench.events(3)
    bench.results.finish([])
    assert work(stage)
    bench.now_s += FAREWELL_S + 0.1
    with pytest.raises(RuntimeFailure, match="sink one: 2 events could not be delivered"):
        work(stage)
    stage.close()


def test_one_sink_that_fails_does_not_silence_the_others(bench: Bench) -> None:
    full, other = FakeEventSink(RuntimeFailure("the disk is full"), after=1), FakeEventSink()
    stage = bench.stage(one=full, two=other)
    bench.events(3)
    assert work(stage)
    bench.events(2)
    assert work(stage)
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="the disk is full"):
        work(stage)
    assert (full.got, other.got) == ([1], [1, 2, 3, 4, 5])
    stage.close()


def test_the_last_sink_that_fails_ends_the_stage(bench: Bench) -> None:
    stage = bench.stage(one=FakeEventSink(RuntimeFailure("the disk is full")))
    bench.events(1)
    with pytest.raises(RuntimeFailure, match="the disk is full"):
        work(stage)
    stage.close()


def test_what_is_said_with_the_end_is_delivered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inference ends between this stage's look into the outbox and its look for the end."""
    sink = FakeEventSink()
    stage = bench.stage(one=sink)
    bench.events(1)
    deliver = EventsStage._deliver

    def end_meanwhile(*arguments: Any) -> bool:
        bench.results.finish([event_of(99)])
        return deliver(*arguments)

    monkeypatch.setattr(EventsStage, "_deliver", end_meanwhile)
    while stage.step() is not None:
        pass
    assert sink.got == [1, 2]
    stage.close()
