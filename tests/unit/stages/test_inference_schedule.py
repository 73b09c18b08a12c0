"""The inference stage where not every frame is due: which are looked at, and why the others are not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.inference.schedule import Pace, StillScene
from pipeline.transport.head import FRAMES, Head
from pipeline.transport.results import ResultLog, latency_quantiles_ms
from pipeline.transport.ring import Writer
from pipeline.types import FrameRef, Layout, Result, Track
from tests.runs import wait_until
from tests.unit.stages.fakes import (
    FakeAnalytics,
    FakeClock,
    FakeDetector,
    grey,
    head_in,
    inference_of,
    lane_of,
    publish,
)
from tests.unit.stages.lives import Inference, writer_in

LAYOUT = Layout(32, 16)


def test_a_file_is_looked_at_so_often_and_carried_in_between(directory: Path) -> None:
    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, pace=Pace(5))
    for _ in range(5):
        publish(writer, 10)
        inference.until_all()
    assert inference.detector.shown == list(range(0, 50, 5))
    assert inference.reasons() == [None if n % 5 == 0 else "rate" for n in range(50)]
    assert inference.results.skipped == {"rate": 40}
    assert inference.head.position("inference") == 50
    inference.stage.close()


@pytest.mark.parametrize("killed_behind", [1, 3, 5, 7, 10, 12])
def test_a_file_is_looked_at_in_the_same_frames_after_a_death(directory: Path, killed_behind: int) -> None:
    writer = writer_in(directory, lossless=True)
    publish(writer, killed_behind)
    first = Inference(directory, pace=Pace(5))
    first.until_all()
    first.stage.close()
    publish(writer, 14 - killed_behind)
    second = Inference(directory, pace=Pace(5))
    second.until_all()
    assert first.detector.shown + second.detector.shown == [0, 5, 10]
    second.stage.close()


def test_frames_that_are_not_due_do_not_wait_for_a_worker(directory: Path) -> None:
    """The only one is busy with another source; this one's video goes on."""
    yard_head, yard_log = head_in(directory, "yard"), ResultLog.create(directory, "yard")
    yard_log.detach_events()
    gate = threading.Event()

    def slow_there(number: int) -> None:
        if number == 100:
            assert gate.wait(30)

    detector = FakeDetector(before=slow_there)
    head, log = Head.attach(directory, "gate"), ResultLog.attach(directory, "gate")
    lanes = [lane_of(head, log, FakeAnalytics(), Pace(5)), lane_of(yard_head, yard_log, FakeAnalytics(), Pace(5))]
    stage = inference_of(lanes, detector)
    stage.open()
    here, there = Writer(head, lossless=False), Writer(yard_head, lossless=False)
    publish(here, 1)
    wait_until(lambda: (stage.step(), log.published == 1)[1], "the first frame", 30)
    grey(120, LAYOUT).copy_to(there.claim(LAYOUT))
    there.publish(time_s=0, captured_ns=0, wall_ns=0)
    wait_until(lambda: (stage.step(), detector.shown == [0, 100])[1], "the worker at the other source", 30)
    publish(here, 4)
    wait_until(lambda: (stage.step(), log.published == 5)[1], "results without a worker", 30)
    publish(here, 1)
    stage.step()
    assert log.published == 5
    gate.set()
    wait_until(lambda: (stage.step(), log.published == 6)[1], "the look that was due", 30)
    assert detector.shown == [0, 100, 5]
    stage.close()


def test_a_late_look_is_at_the_newest_frame_and_only_missed_looks_are_overload(directory: Path) -> None:
    gate = threading.Event()
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, FakeDetector(gate=gate), pace=Pace(5))
    publish(writer, 1)
    inference.until(lambda: inference.detector.shown == [0], "the first look")
    publish(writer, 12)
    gate.set()
    inference.until_all()
    assert inference.detector.shown == [0, 12]
    # due were 5 and 10; instead of 10 it was 12
    assert inference.reasons() == [None, *["rate"] * 4, "overload", *["rate"] * 6, None]
    publish(writer, 5)
    inference.until_all()
    assert inference.detector.shown == [0, 12, 17]
    assert inference.reasons()[13:] == ["rate"] * 4 + [None]
    inference.stage.close()


def test_a_frame_that_comes_at_any_moment_is_looked_at_only_when_it_is_due(directory: Path) -> None:
    """Frames are published by another thread, as fast as it can, while the stage steps."""
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, pace=Pace(5))
    publishing = threading.Thread(target=publish, args=(writer, 600))
    publishing.start()
    inference.until(lambda: not publishing.is_alive() and inference.results.published == 600, "all results")
    looked = [frame.time_s for seq in range(600 - 250, 600) if (frame := _looked_at(inference, seq)) is not None]
    intervals = [Pace(5).interval(time_s) for time_s in looked]
    assert len(set(intervals)) == len(intervals)
    assert inference.results.detected <= 120
    inference.stage.close()


def _looked_at(inference: Inference, seq: int) -> FrameRef | None:
    result = inference.results.result(seq)
    return result.frame if result.detected else None


def test_a_damaged_frame_is_not_looked_at_and_does_not_count_as_a_look(directory: Path) -> None:
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, pace=Pace(5))
    for seq in range(12):
        grey(20 + seq, LAYOUT).copy_to(writer.claim(LAYOUT))
        writer.publish(time_s=seq / 25, captured_ns=seq, wall_ns=seq, corrupt=seq in (0, 5, 6, 11))
        inference.until_all()
    assert inference.detector.shown == [1, 7, 10]
    wanted = {0: "corrupt", 5: "corrupt", 6: "corrupt", 11: "corrupt", 1: None, 7: None, 10: None}
    assert inference.reasons() == [wanted.get(n, "rate") for n in range(12)]
    inference.stage.close()


def test_a_frame_whose_record_is_forgotten_is_not_taken_for_a_damaged_one(directory: Path) -> None:
    """A newer one stands in its place."""
    writer = writer_in(directory, lossless=False)
    for seq in range(FRAMES + 20):
        grey(20, LAYOUT).copy_to(writer.claim(LAYOUT))
        writer.publish(time_s=seq / 25, captured_ns=seq, wall_ns=seq, corrupt=seq == FRAMES + 10)
    inference = Inference(directory)
    inference.until_all()
    assert inference.results.skipped == {"overload": FRAMES + 18, "corrupt": 1}
    inference.stage.close()


class Watching(FakeAnalytics):
    """Sees somebody in the results of the frames ``present``."""

    present: range = range(0)

    def update(self, *arguments: object) -> tuple[Result, list[object]]:  # type: ignore[override]
        result, events = super().update(*arguments)  # type: ignore[arg-type]
        seen = (Track(1, 0, 0.9, (0, 0, 4, 4), True),) if result.frame.seq in self.present else ()
        return Result(result.frame, seen, result.detected, result.reason), list(events)


def test_a_still_scene_is_left_out_unless_somebody_is_in_sight(directory: Path) -> None:
    writer = writer_in(directory, lossless=False)
    analytics = Watching()
    analytics.present = range(20, 23)
    inference = Inference(directory, scene=StillScene((0, 0, 1, 1)), analytics=analytics)
    for seq in range(40):
        grey(20 if seq < 18 else 120, LAYOUT).copy_to(writer.claim(LAYOUT))
        writer.publish(time_s=seq / 8, captured_ns=seq, wall_ns=seq)
        inference.until_all()
    looked = [seq for seq, reason in enumerate(inference.reasons()) if reason is None]
    # the change at 18 and who is in sight behind 20 to 22; otherwise a look every two seconds
    assert looked == [0, 16, 18, 21, 22, 23, 34]
    assert inference.results.skipped == {"still": 33}
    inference.stage.close()


def test_a_file_is_never_gated(directory: Path) -> None:
    writer = writer_in(directory, lossless=True)
    inference = Inference(directory, scene=StillScene((0, 0, 1, 1)))
    for _ in range(10):
        grey(20, LAYOUT).copy_to(writer.claim(LAYOUT))
        writer.publish(time_s=writer.head.next_seq / 25, captured_ns=0, wall_ns=0)
    inference.until_all()
    assert inference.results.detected == 10
    inference.stage.close()


def test_how_old_frames_are_when_a_look_at_them_begins_is_told(directory: Path) -> None:
    clock = FakeClock()
    writer = writer_in(directory, lossless=False)
    inference = Inference(directory, clock=clock)
    for age_ms in (5, 5, 5, 40):
        captured_ns = clock()
        grey(20, LAYOUT).copy_to(writer.claim(LAYOUT))
        clock.pass_s(age_ms / 1e3)
        writer.publish(time_s=writer.head.next_seq / 25, captured_ns=captured_ns, wall_ns=0)
        inference.until_all()
    assert latency_quantiles_ms(inference.results.age_counts, [0.5, 0.99]) == pytest.approx([5, 40], rel=0.03)
    inference.stage.close()
