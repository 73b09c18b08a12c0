"""One sink behind the log: everything in order, again and again until it works, and after every death."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.errors import Disconnected, PipelineError, RuntimeFailure, StartupError
from pipeline.sinks.cursor import Cursor
from pipeline.sinks.delivery import BEAT_S, RETRY_FIRST_S, RETRY_MAX_S, Delivery
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.sink import Accepts
from tests.unit.sinks.events import LOG_ID, OTHER_LOG_ID, event


class FakeSink:
    """Keeps the numbers of what it was given; fails as it is told."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, knows: int | None = None) -> None:
        self.got: list[int] = []
        self.beats: list[int] = []
        self.fails: PipelineError | None = None
        self.knows = knows
        self.closed = False

    def open(self, log_id: str) -> int | None:
        return self.knows

    def write(self, event: dict[str, Any]) -> None:
        if self.fails:
            raise self.fails
        self.got.append(event["seq"])

    def beat(self, seq: int) -> None:
        self.beats.append(seq)

    def close(self) -> None:
        self.closed = True


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = EventLog(directory / "events.sqlite", "run-1")
        self.now_s = 100.0

    def delivery(self, sink: FakeSink, *sources: str) -> Delivery:
        delivery = Delivery(
            "out",
            sink,
            frozenset(sources or ["gate"]),
            self.directory / "cursors" / "out",
            clock=lambda: self.now_s,
            chance=lambda: 1.0,
        )
        delivery.open(self.log)
        return delivery


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    with closing(bench.log):
        yield bench


def work(delivery: Delivery) -> float:
    while (wait_s := delivery.step()) == 0 and not delivery.failed:
        pass
    return wait_s


def test_it_delivers_its_sources_in_order_and_says_how_far_it_is(bench: Bench) -> None:
    sink = FakeSink()
    delivery = bench.delivery(sink)
    bench.log.append([event(n, source="gate" if n % 2 else "yard") for n in range(1, 201)])
    assert work(delivery) == BEAT_S
    assert sink.got == list(range(1, 201, 2))
    assert sink.beats[-1] == delivery.seq == 200
    assert work(delivery) == BEAT_S
    assert len(sink.got) == 100
    delivery.close()
    assert sink.closed


def test_what_is_not_there_is_tried_again_after_a_growing_while(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sink = FakeSink()
    delivery = bench.delivery(sink)
    bench.log.append([event(n) for n in range(3)])
    sink.fails = Disconnected("not there")
    waits = []
    for _ in range(9):
        waits.append(delivery.step())
        assert delivery.step() == waits[-1], "it is left alone meanwhile"
        bench.now_s += waits[-1]
    assert waits[:3] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]
    assert waits[-1] == RETRY_MAX_S
    sink.fails = None
    work(delivery)
    assert (sink.got, delivery.retries) == ([1, 2, 3], 9)
    assert "sink out: delivers again, from event 3 on" in caplog.text
    sink.fails = Disconnected("again")
    bench.log.append([event(9)])
    assert delivery.step() == RETRY_FIRST_S
    delivery.close()


def test_a_failure_for_good_ends_it(bench: Bench) -> None:
    sink = FakeSink()
    delivery = bench.delivery(sink)
    bench.log.append([event(1)])
    sink.fails = RuntimeFailure("no use")
    work(delivery)
    assert delivery.failed is sink.fails
    delivery.close()


def test_the_next_process_goes_on_where_this_one_was(bench: Bench) -> None:
    first = bench.delivery(FakeSink())
    bench.log.append([event(n) for n in range(3)])
    work(first)
    bench.log.append([event(n) for n in range(3, 5)])
    sink = FakeSink()  # the first one was killed: nothing was closed
    second = bench.delivery(sink)
    work(second)
    assert sink.got == [4, 5]
    first.close()
    second.close()


def test_a_sink_that_knows_better_is_believed(bench: Bench) -> None:
    bench.log.append([event(n) for n in range(3)])
    sink = FakeSink(knows=2)
    delivery = bench.delivery(sink)
    work(delivery)
    assert sink.got == [3]
    delivery.close()


def test_a_new_sink_gets_this_run_and_not_all_that_was_ever_logged(bench: Bench) -> None:
    bench.log.append([event(n) for n in range(3)])
    bench.log.append([event(n, "end") for n in range(3)])
    bench.log.close()
    bench.log = EventLog(bench.log.path, "run-2")
    bench.log.append([event(7)])
    sink = FakeSink()
    delivery = bench.delivery(sink)
    work(delivery)
    assert sink.got == [7]
    delivery.close()


def power_failure(bench: Bench, *, delivered: int) -> None:
    """Takes the log back to event 3; the cursor, a file of its own, survives."""
    bench.log.append([event(n) for n in range(3)])
    cursors = bench.directory / "cursors"
    with closing(Cursor(cursors / "out")) as cursor:
        cursor.write(bench.log.log_id, delivered)
    bench.log.close()
    bench.log = EventLog(bench.log.path, "run-2", cursors=cursors)


def test_what_comes_behind_a_power_failure_is_delivered_under_new_numbers(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    power_failure(bench, delivered=7)
    sink = FakeSink()
    delivery = bench.delivery(sink)
    bench.log.append([event(n) for n in range(20, 22)])
    work(delivery)
    # three episodes were open: their ends come first
    assert (sink.got, bench.log.run_after) == ([8, 9, 10, 11, 12], 7)
    assert "events 4 to 7 are lost, as after a power failure; the next one gets number 8" in caplog.text
    delivery.close()


def test_a_sink_that_says_it_is_ahead_of_the_log_gets_what_comes(bench: Bench) -> None:
    bench.log.append([event(n) for n in range(3)])
    sink = FakeSink(knows=7)
    delivery = bench.delivery(sink)
    bench.log.append([event(n) for n in range(3, 5)])
    work(delivery)
    assert sink.got == [4, 5]
    delivery.close()


@pytest.mark.parametrize(("knows", "expected"), [(None, [3, 4]), (0, [3, 4]), (3, [4])])
def test_a_sink_that_knows_of_none_goes_on_where_it_was(bench: Bench, knows: int | None, expected: list[int]) -> None:
    bench.log.append([event(n) for n in range(4)])
    with closing(Cursor(bench.directory / "cursors" / "out")) as cursor:
        cursor.write(bench.log.log_id, 2)
    sink = FakeSink(knows)
    delivery = bench.delivery(sink)
    work(delivery)
    assert sink.got == expected
    delivery.close()


def test_what_was_removed_before_it_came_is_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    sink = FakeSink()
    delivery = bench.delivery(sink)
    bench.log.append([event(n) for n in range(10)])
    bench.log.remove(up_to=4)
    work(delivery)
    assert sink.got == list(range(5, 11))
    assert "sink out: events 1 to 4 had to be removed before it took them" in caplog.text
    delivery.close()


def test_in_a_thread_of_its_own_it_is_woken(bench: Bench) -> None:
    sink = FakeSink()
    delivery = bench.delivery(sink)
    delivery.start()
    for number in range(20):
        bench.log.append([event(number)])
        delivery.wake()
        while delivery.seq < number + 1:
            pass
    delivery.close(patience_s=10)
    assert sink.got == list(range(1, 21))
    assert sink.closed


def test_a_sink_that_does_not_come_back_is_left_alone(bench: Bench) -> None:
    sink, stuck = FakeSink(), threading.Event()
    sink.beat = lambda _: stuck.wait(30)  # type: ignore[method-assign, assignment]
    delivery = bench.delivery(sink)
    delivery.start()
    delivery.close(patience_s=0.2)
    assert not sink.closed
    stuck.set()
    delivery.close(patience_s=10)
    assert sink.closed


def test_a_cursor_is_one_record_of_one_log(tmp_path: Path) -> None:
    path = tmp_path / "cursors" / "out"
    with closing(Cursor(path)) as cursor:
        assert cursor.read(LOG_ID) is None
        cursor.write(LOG_ID, 41)
        size = path.stat().st_size
        cursor.write(LOG_ID, 1 << 60)
        assert cursor.read(LOG_ID) == 1 << 60
        assert cursor.read(OTHER_LOG_ID) is None
        assert path.stat().st_size == size
        path.write_bytes(b"something else")
        assert cursor.read(LOG_ID) is None
    cursor.close()
    with pytest.raises(StartupError, match="cannot be written"):
        Cursor(path / "out")
