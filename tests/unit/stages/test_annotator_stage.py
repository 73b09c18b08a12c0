"""The annotator stage: every frame once into every sink, also after a death between any two steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.sinks.annotator_stage import AnnotatorStage
from pipeline.transport.head import Head
from pipeline.transport.missing import MissingFrames
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import SLOTS_MAX, Reader, Writer
from pipeline.types import Layout, Result
from tests.unit.stages.fakes import SMALL, FakeBell, FakeEncoder, FakeSink, as_listener, head_in, publish

Stored = list[tuple[int, int, float]]


class FakeOverlay:
    def __init__(self, layout: Layout) -> None: ...

    def catch_up(self, seq: int, result_of: Any) -> None: ...

    def hide(self, image: Any, result: Result) -> None: ...

    def mark(self, image: Any, result: Result) -> None: ...


class Bench:
    """A ring, a result log, and annotators that come and go."""

    def __init__(self, directory: Path, *, lossless: bool = True) -> None:
        self.directory = directory
        self.head = head_in(directory)
        self.writer = Writer(self.head, lossless=lossless)
        self.results = ResultLog.create(directory, "gate")

    def frames(self, count: int, layout: Layout = SMALL) -> None:
        publish(self.writer, count, layout)
        for seq in range(self.results.published, self.head.next_seq):
            self.results.commit(Result(self.head.ref(seq), (), True), [], None)

    def annotator(self, sinks: Sequence[FakeSink]) -> AnnotatorStage:
        stage = AnnotatorStage(
            "annotator/gate",
            Reader(Head.attach(self.directory, "gate"), "annotator"),
            ResultLog.attach(self.directory, "gate"),
            as_listener(FakeBell()),
            sinks,
            create_encoder=FakeEncoder.create,
            create_overlay=FakeOverlay,  # type: ignore[arg-type]
        )
        stage.open()
        return stage

    def missing(self) -> list[int]:
        numbers = sorted(MissingFrames(self.head).numbers())
        assert len(numbers) == self.head.missing
        return numbers


def work(stage: AnnotatorStage, steps: int = 1000) -> float | None:
    """So many steps, or until it waits or ends."""
    for _ in range(steps):
        wait_s = stage.step()
        if wait_s != 0:
            return wait_s
    return 0


def whole(stored: Stored, count: int) -> bool:
    return [(seq, level) for seq, level, _ in stored] == [(n, n) for n in range(count)]


def test_every_frame_goes_to_every_sink_and_then_they_finish(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sinks = [FakeSink([]), FakeSink([])]
    stage = bench.annotator(sinks)
    for _ in range(3):
        bench.frames(10)
        assert work(stage)
        bench.head.move("inference", bench.head.next_seq)
    assert bench.head.position("annotator") == 30
    bench.results.finish([])
    assert work(stage) is None
    assert all(whole(sink.stored, 30) and sink.finished == 1 for sink in sinks)
    assert bench.missing() == []
    stage.close()
    stage.close()


def test_the_position_moves_only_past_what_is_stored(tmp_path: Path) -> None:
    """The slower of two sinks decides."""
    bench = Bench(tmp_path)
    stage = bench.annotator([FakeSink([], safe_every=1), FakeSink([], safe_every=4)])
    bench.frames(10)
    work(stage)
    assert bench.head.position("annotator") == 8
    bench.results.finish([])
    assert work(stage) is None
    assert bench.head.position("annotator") == 10
    stage.close()


@pytest.mark.parametrize("steps", range(15))
@pytest.mark.parametrize("every", [(1, 1), (1, 4), (3, 2)])
def test_killed_after_any_step_it_goes_on_without_a_gap(tmp_path: Path, steps: int, every: tuple[int, int]) -> None:
    """Frames that a sink had not stored come again; it is the sink's promise to leave out those that it has."""
    bench = Bench(tmp_path)
    bench.frames(12)
    bench.results.finish([])
    stored: list[Stored] = [[], []]
    work(bench.annotator([FakeSink(kept, n) for kept, n in zip(stored, every, strict=True)]), steps)
    safe = [len(kept) for kept in stored]
    if steps < 13:
        assert bench.head.position("annotator") == min(safe)

    second = [FakeSink(kept, n) for kept, n in zip(stored, every, strict=True)]
    stage = bench.annotator(second)
    assert work(stage) is None
    for kept in stored:
        assert {(seq, level) for seq, level, _ in kept} == {(n, n) for n in range(12)}
    assert whole(min(stored, key=len), 12)
    assert [sink.finished for sink in second] == [1, 1]
    stage.close()


def test_frames_that_were_overwritten_are_written_down(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lossless=False)
    bench.frames(SLOTS_MAX + 5)
    sink = FakeSink([])
    stage = bench.annotator([sink])
    work(stage)
    assert bench.missing() == [0, 1, 2, 3, 4]
    assert [seq for seq, _, _ in sink.stored] == list(range(5, SLOTS_MAX + 5))
    assert bench.head.position("annotator") == SLOTS_MAX + 5
    stage.close()


def test_a_missing_frame_that_is_noted_twice_counts_once(tmp_path: Path) -> None:
    """The first annotator dies between the note and the move of its position."""
    bench = Bench(tmp_path, lossless=False)
    bench.frames(SLOTS_MAX + 2)
    MissingFrames(bench.head).note(0)
    stage = bench.annotator([FakeSink([])])
    work(stage)
    assert bench.missing() == [0, 1]
    stage.close()


def test_sinks_that_may_skip_get_every_frame_as_well(tmp_path: Path) -> None:
    """Where nothing has to be kept, nothing counts as kept already."""
    bench = Bench(tmp_path)
    sink = FakeSink([])
    sink.lossless = False  # type: ignore[misc]
    bench.frames(5)
    stage = bench.annotator([sink])
    work(stage)
    assert [seq for seq, _, _ in sink.stored] == list(range(5))
    assert bench.head.position("annotator") == 5
    stage.close()


def test_of_a_live_source_that_nobody_keeps_the_newest_is_shown(tmp_path: Path) -> None:
    bench = Bench(tmp_path, lossless=False)
    sink = FakeSink([])
    sink.lossless = False  # type: ignore[misc]
    stage = bench.annotator([sink])
    bench.frames(10)
    work(stage)
    bench.frames(2)
    work(stage)
    assert [seq for seq, _, _ in sink.stored] == [9, 10, 11]
    assert bench.head.position("annotator") == 12
    assert bench.missing() == []
    stage.close()


def test_a_change_of_size_is_a_new_stream(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sink = FakeSink([])
    stage = bench.annotator([sink])
    bench.frames(3)
    bench.frames(3, Layout(16, 16))
    bench.results.finish([])
    assert work(stage) is None
    assert whole(sink.stored, 6)
    assert sink.streams == [SMALL, Layout(16, 16)]
    stage.close()
