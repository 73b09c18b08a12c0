"""What the annotator's sinks want, see and hear, and what happens to the others when one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.sinks.annotator_stage import AnnotatorStage
from pipeline.sinks.sink import Wish
from pipeline.transport.head import Head
from pipeline.transport.missing import MissingFrames
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader, Writer
from pipeline.types import I420, Event, Layout, Result
from tests.unit.stages.fakes import FakeBell, FakeEncoder, FakeSink, as_listener, event_of, head_in, publish


class DarkOverlay:
    """Draws by making the last pixel black."""

    def __init__(self, layout: Layout) -> None: ...

    def catch_up(self, seq: int, result_of: Any) -> None: ...

    def hide(self, image: I420, result: Result) -> None:
        assert image.y[0, 0] > 0

    def mark(self, image: I420, result: Result) -> None:
        image.y[0, 0] = 0


class Witness(FakeSink):
    """Looks and listens."""

    def __init__(self) -> None:
        super().__init__([])
        self.heard = 0
        self.said: list[tuple[str, int]] = []

    def look(self, image: I420, result: Result, *, drawn: bool) -> None:
        assert (image.y[0, 0] == 0) == drawn
        self.said.append(("drawn" if drawn else "clean", result.frame.seq))

    def hear(self, event: Event) -> None:
        self.said.append(("event", round(event.stream_s * 25)))


class Bench:
    def __init__(
        self,
        directory: Path,
        sinks: Sequence[FakeSink],
        frames: int,
        events_at: Sequence[int] = (),
        *,
        lossless: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.head = head_in(directory)
        self.results = ResultLog.create(directory, "gate")
        self._writer = Writer(self.head, lossless=lossless)
        self.more(frames, events_at)
        self.stage = AnnotatorStage(
            "annotator/gate",
            Reader(Head.attach(directory, "gate"), "annotator"),
            ResultLog.attach(directory, "gate"),
            as_listener(FakeBell()),
            sinks,
            create_encoder=FakeEncoder.create,
            create_overlay=DarkOverlay,  # type: ignore[arg-type]
            clock=clock,
        )
        self.stage.open()

    def more(self, frames: int, events_at: Sequence[int] = ()) -> None:
        first = self.head.next_seq
        publish(self._writer, frames)
        for seq in range(first, first + frames):
            self.results.commit(Result(self.head.ref(seq), (), True), [event_of(seq)] if seq in events_at else [], None)

    def work_on(self, frames: int) -> None:
        """Never behind."""
        for _ in range(frames):
            self.more(1)
            self.work()

    def work(self) -> Any:
        while (wait_s := self.stage.step()) == 0:
            pass
        return wait_s


def stored(sink: FakeSink) -> list[int]:
    return [seq for seq, _, _ in sink.stored]


def wanted(*seqs: int, keyframes: Sequence[int] = ()) -> Any:
    def wish(time_s: float) -> Wish:
        seq = round(time_s * 25)
        return Wish.KEYFRAME if seq in keyframes else Wish.PACKET if seq in seqs else Wish.NOTHING

    return wish


class Follower(FakeSink):
    """Stores frames by itself, but for one in three; fails where it is told to."""

    def __init__(self, failing: int | None = None) -> None:
        super().__init__([])
        self.wishes = wanted()
        self.failing = failing
        self.followed: list[int] = []

    def follow(self, result: Result) -> None:
        if result.frame.seq == self.failing:
            raise RuntimeFailure("the disk is gone")
        self.followed.append(result.frame.seq)

    def lacking(self, *, at_end: bool) -> list[int]:
        ready = [seq for seq in self.followed if at_end or seq < self.followed[-1]]
        self.followed = [seq for seq in self.followed if seq not in ready]
        return [seq for seq in ready if seq % 3 == 0]


def test_what_a_sink_has_not_stored_by_itself_is_missing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [Follower(), Follower()], 10)
    bench.work()
    assert MissingFrames(bench.head).numbers() == {0, 3, 6}
    bench.results.finish([])
    bench.work()
    assert MissingFrames(bench.head).numbers() == {0, 3, 6, 9}
    assert bench.head.missing == 4
    assert bench.head.position("annotator") == 10


def test_a_sink_that_fails_says_what_it_has_not_stored(tmp_path: Path) -> None:
    bench = Bench(tmp_path, [Follower(7)], 10)
    with pytest.raises(RuntimeFailure):
        bench.work()
    assert MissingFrames(bench.head).numbers() == {0, 3, 6}
    assert bench.head.position("annotator") == 7


def test_what_a_recording_lacks_of_an_outage_is_missing(tmp_path: Path) -> None:
    now_s = [0.0]
    sink = FakeSink([])
    sink.fails_at = 3
    bench = Bench(tmp_path, [sink], 0, lossless=False, clock=lambda: now_s[0])
    bench.work_on(25)
    sink.fails_at, now_s[0] = None, 1.1
    bench.work_on(5)
    assert stored(sink) == [0, 1, 2, *range(25, 30)]
    assert MissingFrames(bench.head).numbers() == set(range(3, 25))
    assert bench.head.position("annotator") - bench.head.missing == 8


def test_what_was_handed_to_a_sink_and_not_stored_when_it_failed_is_missing(tmp_path: Path) -> None:
    sink = FakeSink([], safe_every=4)
    sink.fails_at = 6
    bench = Bench(tmp_path, [sink], 8, lossless=False)
    bench.work()
    assert MissingFrames(bench.head).numbers() == {4, 5, 6, 7}
    assert bench.head.position("annotator") == 8


def test_a_keeper_that_comes_back_may_find_the_frames_of_an_outage(tmp_path: Path) -> None:
    """Only it knows, and only at the end it is sure that it does not come back."""
    now_s = [0.0]
    keeper = Follower(7)
    keeper.lossless = False  # type: ignore[misc]
    bench = Bench(tmp_path, [keeper], 0, lossless=False, clock=lambda: now_s[0])
    bench.work_on(12)
    assert MissingFrames(bench.head).numbers() == {0, 3}
    now_s[0], keeper.failing = 1.1, 15
    bench.work_on(5)
    assert MissingFrames(bench.head).numbers() == {0, 3, 6, 12}
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="the disk is gone"):
        bench.work()
    assert MissingFrames(bench.head).numbers() == {0, 3, 6, 12, 15, 16}


def test_what_nobody_wants_is_not_encoded_and_behind_it_comes_a_keyframe(tmp_path: Path) -> None:
    sink = FakeSink([])
    sink.wishes = wanted(2, 3, 4, 7, 8)
    bench = Bench(tmp_path, [sink], 10)
    bench.work()
    assert stored(sink) == [2, 3, 4, 7, 8]
    assert sink.keyframes == [2, 7]
    assert bench.stage.counters == {"written": 5}
    assert bench.head.position("annotator") == 10


def test_the_most_demanding_sink_decides_for_all(tmp_path: Path) -> None:
    modest, demanding = FakeSink([]), FakeSink([])
    modest.wishes, demanding.wishes = wanted(), wanted(*range(10), keyframes=[3, 6])
    bench = Bench(tmp_path, [modest, demanding], 10)
    bench.work()
    assert stored(modest) == stored(demanding) == list(range(10))
    assert modest.keyframes == demanding.keyframes == [3, 6]


def test_a_sink_that_fails_does_not_take_the_others_down(tmp_path: Path) -> None:
    failing, well = FakeSink([]), FakeSink([], safe_every=2)
    failing.fails_at = 3
    bench = Bench(tmp_path, [failing, well], 9)
    bench.work()
    assert stored(failing) == [0, 1, 2]
    assert stored(well) == list(range(8))
    assert bench.head.position("annotator") == 8
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="the disk is full"):
        bench.work()
    assert stored(well) == list(range(9))
    assert (failing.finished, well.finished) == (0, 1)
    assert bench.head.position("annotator") == 9


def test_the_last_sink_that_fails_ends_the_stage(tmp_path: Path) -> None:
    first, second = FakeSink([]), FakeSink([])
    first.fails_at, second.fails_at = 2, 4
    with pytest.raises(RuntimeFailure):
        Bench(tmp_path, [first, second], 9).work()
    assert (stored(first), stored(second)) == ([0, 1], [0, 1, 2, 3])


def test_a_live_sources_sink_that_failed_is_tried_again(tmp_path: Path) -> None:
    """After a wait that doubles, with a keyframe; the other one has every frame."""
    now_s = [0.0]
    failing, well = FakeSink([]), FakeSink([])
    failing.fails_at = 3
    bench = Bench(tmp_path, [failing, well], 5, lossless=False, clock=lambda: now_s[0])
    bench.work()
    assert stored(failing) == [0, 1, 2]
    failing.fails_at = None
    failing.refuses = [StartupError("the disk is gone")]
    for now_s[0], expected in ((0.9, [0, 1, 2]), (1.1, [0, 1, 2]), (3.0, [0, 1, 2]), (3.2, [0, 1, 2, 8])):
        bench.more(1)
        bench.work()
        assert stored(failing) == expected
    assert failing.keyframes == [8]
    assert stored(well) == list(range(9))
    bench.results.finish([])
    assert bench.work() is None
    assert failing.finished == 1


def test_the_only_sink_of_a_live_source_may_come_back(tmp_path: Path) -> None:
    sink = FakeSink([])
    sink.fails_at = 1
    bench = Bench(tmp_path, [sink], 3, lossless=False)
    bench.work()
    bench.results.finish([])
    with pytest.raises(RuntimeFailure, match="the disk is full"):
        bench.work()


def test_a_sink_that_listens_hears_of_a_frame_before_it_sees_it(tmp_path: Path) -> None:
    sink = Witness()
    bench = Bench(tmp_path, [sink], 4, events_at=[1, 3])
    bench.work()
    pictures = [[("clean", seq), ("drawn", seq)] for seq in range(4)]
    assert sink.said == [*pictures[0], ("event", 1), *pictures[1], *pictures[2], ("event", 3), *pictures[3]]
    assert sink.heard == 2


def test_what_is_said_at_the_end_is_heard_before_the_end(tmp_path: Path) -> None:
    sink = Witness()
    bench = Bench(tmp_path, [sink], 2)
    bench.work()
    bench.results.finish([event_of(50)])
    assert bench.work() is None
    assert sink.said[-1] == ("event", 50)
    assert sink.finished == 1
