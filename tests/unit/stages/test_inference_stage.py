"""The inference stage with a detector that waits for us: what is looked at, in which order, and after a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.budget import RESTARTS_MAX
from pipeline.inference.lane import ATTEMPTS_MAX
from pipeline.inference.stage import AHEAD_MAX
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import SLOTS_MAX, Writer
from pipeline.types import FrameRef, Result
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeAnalytics, FakeDetector, head_in, inference_of, lane_of, publish
from tests.unit.stages.lives import Inference, writer_in


def test_a_file_has_every_frame_looked_at_in_order(directory: Path) -> None:
    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, in_flight=3)
    for _ in range(4):
        publish(writer, 10)
        published = writer.head.next_seq
        inference.until(lambda: inference.results.published == published, "results")  # noqa: B023
    writer.head.end("end_of_stream")
    inference.until(lambda: inference.results.finished, "the end")
    assert inference.stage.step() is None
    assert [(r.frame.seq, r.detected, r.reason) for r in inference.all_results()] == [
        (n, True, None) for n in range(40)
    ]
    assert sorted(inference.detector.shown) == list(range(40))
    assert inference.analytics.finished == "end_of_stream"
    assert inference.head.position("inference") == 40
    inference.stage.close()
    assert inference.detector.closed


def test_results_come_in_order_even_if_the_frames_do_not(directory: Path) -> None:
    """The second frame takes longer than the third: its result still comes before."""
    release = threading.Event()

    def slow_second(number: int) -> None:
        if number == 1:
            assert release.wait(30)

    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, FakeDetector(before=slow_second), in_flight=2)
    publish(writer, 3)
    inference.until(lambda: sorted(inference.detector.shown) == [0, 1, 2], "two frames in flight")
    inference.stage.step()
    assert inference.results.published == 1
    release.set()
    inference.until(lambda: inference.results.published == 3, "all results")
    assert [result.frame.seq for result in inference.all_results()] == [0, 1, 2]
    inference.stage.close()


def test_it_says_whether_a_frame_would_find_a_free_worker(directory: Path) -> None:
    release = threading.Event()

    def held_after_the_first(number: int) -> None:
        if number:
            assert release.wait(30)

    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, FakeDetector(before=held_after_the_first))
    assert not inference.head.busy
    publish(writer, 1)
    inference.until(lambda: inference.results.published == 1, "the first result")
    inference.until(lambda: not inference.head.busy, "a free worker")
    publish(writer, 1)
    inference.stage.step()
    assert inference.head.busy
    release.set()
    inference.until(lambda: not inference.head.busy, "a free worker again")
    assert inference.results.published == 2
    inference.stage.close()


def test_a_slow_frame_leaves_no_worker_idle(directory: Path) -> None:
    """The others go ahead of it, so far and no further, and no step is needed for that."""
    release = threading.Event()

    def slow_second(number: int) -> None:
        if number == 1:
            assert release.wait(30)

    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, FakeDetector(before=slow_second), in_flight=2)
    publish(writer, 10)
    inference.stage.step()
    ahead = 2 * AHEAD_MAX
    inference.until(lambda: sorted(inference.detector.shown) == list(range(1 + ahead)), "frames ahead of the slow one")
    assert inference.results.published == 1
    release.set()
    wait_until(lambda: inference.results.published == 10, "all results", 30)
    inference.stage.close()


def test_the_first_frame_of_a_life_is_alone(directory: Path) -> None:
    """What takes the process down then is known."""
    gate = threading.Event()
    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, FakeDetector(gate=gate), in_flight=4)
    publish(writer, 8)
    inference.until(lambda: inference.detector.shown == [0], "the first frame in flight")
    inference.stage.step()
    assert inference.stage.counters["in_flight"] == 1
    gate.set()
    inference.until(lambda: inference.results.published == 8, "all results")
    inference.stage.close()


def test_overload_of_a_live_source_looks_at_the_newest(directory: Path) -> None:
    """What came meanwhile is carried, in order, with the reason."""
    gate = threading.Event()
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, FakeDetector(gate=gate))
    publish(writer, 1)
    inference.until(lambda: inference.detector.shown == [0], "the first frame in flight")
    publish(writer, 9)
    inference.stage.step()
    assert inference.detector.shown == [0]
    gate.set()
    inference.until(lambda: inference.results.published == 10, "all results")
    assert [(r.frame.seq, r.reason) for r in inference.all_results()] == [
        (0, None), *((n, "overload") for n in range(1, 9)), (9, None),
    ]  # fmt: skip
    assert inference.detector.shown == [0, 9]
    assert inference.results.skipped == {"overload": 8}
    assert (inference.results.detected, inference.results.published) == (2, 10)
    inference.stage.close()


def test_pixels_that_were_overwritten_meanwhile_do_not_count(directory: Path) -> None:
    gate = threading.Event()
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, FakeDetector(gate=gate))
    publish(writer, 1)
    inference.until(lambda: inference.detector.shown == [0], "the first frame in flight")
    publish(writer, SLOTS_MAX + 2)
    gate.set()
    inference.until(lambda: inference.results.published == SLOTS_MAX + 3, "all results")
    first, last = inference.all_results()[0], inference.all_results()[-1]
    assert (first.detected, first.reason) == (False, "expired")
    assert (last.detected, last.reason) == (True, None)
    assert inference.results.skipped == {"overload": SLOTS_MAX + 1, "expired": 1}
    inference.stage.close()


def test_a_far_too_late_inference_still_gives_a_result_for_every_frame(directory: Path) -> None:
    """More frames than the ring's header remembers: times keep going up."""
    writer = writer_in(directory, lossless=False)
    publish(writer, 1500)
    inference = Inference(directory)
    last: list[Result] = []
    inference.until(lambda: inference.results.published == 1500, "all results")
    last = [inference.results.result(seq) for seq in range(1500 - 200, 1500)]
    times = [result.frame.time_s for result in last]
    assert times == sorted(set(times))
    assert inference.analytics.seen == list(range(1500))
    assert inference.detector.shown == [1499 % 200]
    inference.stage.close()


def test_a_long_backlog_costs_the_same_for_every_frame(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it is put in order under one lock, and without a heartbeat."""
    frames = 5000
    publish(writer_in(directory, lossless=False), frames)
    inference = Inference(directory)
    asked: list[int] = []
    ref = inference.head.ref

    def counted(seq: int) -> FrameRef:
        asked.append(seq)
        return ref(seq)

    monkeypatch.setattr(inference.head, "ref", counted)
    inference.until(lambda: inference.results.published == frames, "all results")
    assert inference.analytics.seen == list(range(frames))
    assert len(asked) < 3 * frames
    inference.stage.close()


def test_a_restarted_inference_goes_on_where_the_last_result_is(directory: Path) -> None:
    writer = writer_in(directory, lossless=True)
    first = Inference(directory)
    publish(writer, 3)
    first.until(lambda: first.results.published == 3, "three results")
    first.stage.close()
    publish(writer, 2)
    second = Inference(directory, in_flight=2)
    assert second.analytics.seen == [0, 1, 2]
    writer.head.end("end_of_stream")
    second.until(lambda: second.results.finished, "the end")
    assert sorted(second.detector.shown) == [3, 4]
    assert second.analytics.seen == [0, 1, 2, 3, 4]
    second.stage.close()
    third = Inference(directory)
    assert third.stage.step() is None
    assert third.detector.shown == []
    third.stage.close()


def dies_at(deadly: int) -> Callable[[int], None]:
    def die(number: int) -> None:
        if number == deadly:
            raise MemoryError

    return die


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("deadly", [0, 4])
def test_a_frame_that_kills_is_left_out_in_the_end(directory: Path, deadly: int, in_flight: int) -> None:
    """Each life begins with the frame behind the last result, and that frame is tried as often as any other."""
    writer = writer_in(directory, lossless=True)
    publish(writer, 8)
    writer.head.end("end_of_stream")
    lives = 0
    while True:
        lives += 1
        inference = Inference(directory, FakeDetector(before=dies_at(deadly)), in_flight=in_flight)
        try:
            inference.until(lambda: inference.results.finished, "the end")  # noqa: B023
            break
        except MemoryError:
            assert inference.results.published == deadly
        finally:
            inference.stage.close()
    assert lives == (ATTEMPTS_MAX + 1 if deadly == 0 else ATTEMPTS_MAX + 2)
    assert inference.reasons() == ["failed" if n == deadly else None for n in range(8)]


def test_a_frame_that_kills_is_found_among_two_sources(directory: Path) -> None:
    """The other source's frames are not blamed, and all of it stays within the supervisor's patience."""
    heads = {"gate": Head.attach(directory, "gate"), "yard": head_in(directory, "yard")}
    logs = {"gate": ResultLog.attach(directory, "gate"), "yard": ResultLog.create(directory, "yard")}
    logs["yard"].detach_events()
    for source, count in (("gate", 5), ("yard", 12)):
        publish(Writer(heads[source], lossless=True), count)
        heads[source].end("end_of_stream")

    for _ in range(RESTARTS_MAX):
        lanes = [lane_of(heads[source], logs[source], FakeAnalytics()) for source in heads]
        stage = inference_of(lanes, FakeDetector(before=dies_at(9)), in_flight=4)
        stage.open()
        try:
            wait_until(lambda: stage.step() is None, "the end", 30)  # noqa: B023
            break
        except MemoryError:
            continue
        finally:
            stage.close()
    reasons = {source: [log.result(seq).reason for seq in range(log.published)] for source, log in logs.items()}
    assert reasons == {"gate": [None] * 5, "yard": [None] * 9 + ["failed"] + [None] * 2}


def test_close_is_safe_twice(directory: Path) -> None:
    inference = Inference(directory)
    inference.stage.close()
    inference.stage.close()
