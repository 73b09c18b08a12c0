"""The events stage: everything into the log and to every sink; and what cannot be delivered is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Disconnected, RuntimeFailure
from pipeline.sinks import delivery as delivery_module
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.events_stage import FAREWELL_S, LOG_RETRY_S, OutboxInlet
from tests.runs import wait_until
from tests.unit.stages.events_bench import Bench, FakeEventSink, to_the_end, work
from tests.unit.stages.fakes import event_of


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(delivery_module, "RETRY_FIRST_S", 0.001)
    return Bench(tmp_path)


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
    assert "sink one: an error that nobody expected (ValueError in events_bench.py:" in caplog.text
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
