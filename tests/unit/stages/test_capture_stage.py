"""The capture stage, step by step, on a clock of our own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.capture.source import Pacing
from pipeline.capture.stage import CaptureStage
from pipeline.errors import PipelineError, SourceBroken
from pipeline.transport.head import Head
from pipeline.transport.ring import SLOTS_MAX, Reader
from pipeline.types import Layout, Picture
from tests.unit.stages.fakes import FakeBell, FakeClock, FakeSource, as_bell, film, head_in


class Capture:
    """One life of a capture on a ring."""

    def __init__(
        self,
        head: Head,
        items: Iterable[Picture | PipelineError],
        pacing: Pacing = "lossless",
        kind: type[FakeSource] = FakeSource,
    ) -> None:
        self.clock = FakeClock()
        self.bell = FakeBell()
        self.source = kind(items, pacing)
        self.stage = CaptureStage(
            "capture/gate", self.source, head, as_bell(self.bell), clock_ns=self.clock, wall_clock_ns=self.clock
        )
        self.stage.open()

    def until_it_waits(self) -> float | None:
        """Steps until it wants to be left alone; how long, or None at the end."""
        while (wait_s := self.stage.step()) == 0:
            pass
        return wait_s


class Pattern(FakeSource):
    """Cannot go back in time: it begins anew."""

    def seek(self, seq: int, last_s: float | None = None) -> None: ...


@pytest.fixture
def head(tmp_path: Path) -> Head:
    return head_in(tmp_path)


def test_no_bell_is_rung_while_nobody_waits_for_it(head: Head) -> None:
    capture = Capture(head, film(6))
    head.busy = True
    for _ in range(3):
        capture.stage.step()
    assert (head.next_seq, capture.bell.rung) == (3, 0)
    head.busy = False
    assert capture.until_it_waits() is None
    assert capture.bell.rung == 3 + 1, "three frames and the end"


def test_a_file_waits_for_the_slowest_lossless_reader(head: Head) -> None:
    capture = Capture(head, film(40))
    wait_s = capture.until_it_waits()
    assert wait_s is not None
    assert 0 < wait_s < 0.05
    assert (head.next_seq, capture.bell.rung) == (SLOTS_MAX, SLOTS_MAX)
    head.move("inference", 30)
    capture.until_it_waits()
    assert head.next_seq == SLOTS_MAX
    head.move("annotator", 5)
    capture.until_it_waits()
    assert head.next_seq == SLOTS_MAX + 5
    head.detach("annotator")
    assert capture.until_it_waits() is None
    assert (head.end_seq, head.end_reason) == (40, "end_of_stream")
    assert [head.ref(seq).time_s for seq in range(3)] == [0, 0.04, 0.08]


def test_it_waits_until_what_is_behind_it_runs(head: Head) -> None:
    head.held = True
    capture = Capture(head, film(3))
    assert capture.until_it_waits()
    assert (head.next_seq, capture.source.next) == (0, 0)
    head.held = False
    assert capture.until_it_waits() is None
    assert head.next_seq == 3


def test_stopped_while_it_is_held_it_ends_the_stream(head: Head) -> None:
    head.held = True
    capture = Capture(head, film(3))
    capture.stage.stop()
    assert capture.stage.step() is None
    assert (head.end_seq, head.end_reason) == (0, "stopped")


def test_a_paced_source_holds_pictures_until_they_are_due(head: Head) -> None:
    capture = Capture(head, film(60), "paced")
    wait_s = capture.until_it_waits()
    assert head.next_seq == 1
    assert wait_s == pytest.approx(0.04)
    capture.clock.pass_s(0.03)
    assert capture.until_it_waits() == pytest.approx(0.01)
    assert head.next_seq == 1
    capture.clock.pass_s(0.01)
    capture.until_it_waits()
    assert head.next_seq == 2
    capture.clock.pass_s(2)  # it does not wait for readers, who have not moved at all
    capture.until_it_waits()
    assert head.next_seq == 52
    assert not head.waits


def test_a_source_that_breaks_off_ends_the_stream_with_the_reason(head: Head) -> None:
    capture = Capture(head, [*film(3), SourceBroken("it breaks off")])
    with pytest.raises(SourceBroken):
        capture.until_it_waits()
    assert (head.end_seq, head.end_reason) == (3, "broken: it breaks off")
    again = Capture(head, [])
    assert again.stage.step() is None
    assert again.source.opened == 0


def test_a_restarted_capture_goes_on_behind_the_last_frame(head: Head, tmp_path: Path) -> None:
    first = Capture(head, film(40))
    first.until_it_waits()
    head.move("inference", 16)
    head.move("annotator", 16)
    first.stage.step()
    second = Capture(Head.attach(tmp_path, "gate"), film(40))
    second.until_it_waits()
    head.move("inference", 40)
    head.move("annotator", 40)
    assert second.until_it_waits() is None
    assert [head.ref(seq).time_s for seq in range(40)] == pytest.approx([n * 0.04 for n in range(40)])
    reader = Reader(head, "inference")
    assert [int(reader.frame(seq).image.y[0, 0]) - 20 for seq in range(30, 40)] == list(range(30, 40))
    reader.close()


def test_a_pattern_that_begins_anew_goes_on_in_time(head: Head, tmp_path: Path) -> None:
    first = Capture(head, film(100), "paced", Pattern)
    first.until_it_waits()
    first.clock.pass_s(0.16)
    first.until_it_waits()
    again = Capture(Head.attach(tmp_path, "gate"), film(100), "paced", Pattern)
    again.clock.pass_s(0.16 + 3)
    again.until_it_waits()
    again.clock.pass_s(0.08)
    again.until_it_waits()
    assert [head.ref(seq).time_s for seq in range(8)] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 3.16, 3.2, 3.24])


def test_a_change_of_size_waits_until_the_readers_have_followed_the_one_before(head: Head, tmp_path: Path) -> None:
    """So there are never more than two rings, however often the size changes."""
    items = [film(1, Layout(32 + 2 * number, 16))[0] for number in range(20)]
    items = [Picture(item.image, number * 0.04) for number, item in enumerate(items)]
    capture = Capture(head, items)
    most = 0
    while capture.until_it_waits() is not None:
        assert head.slowest(lossless_only=True) < head.next_seq, "it waits for nobody"
        most = max(most, len(list(tmp_path.glob("gate.g*"))))
        for reader in head.readers:
            head.move(reader, head.position(reader) + 1)
    assert head.next_seq == 20
    assert most == 2


def test_close_is_safe_after_nothing_and_twice(head: Head) -> None:
    stage = CaptureStage("capture/gate", FakeSource([]), head, as_bell(FakeBell()))
    stage.close()
    stage.close()


def test_what_has_taken_a_source_s_place_begins_at_its_beginning(head: Head) -> None:
    Capture(head, film(5)).until_it_waits()
    head.begin()
    head.reopen([])
    capture = Capture(head, film(30), "paced")
    capture.until_it_waits()
    assert (head.next_seq, capture.source.next) == (6, 2), "one is shown, one waits for its time"
    again = Capture(head, film(30), "paced")
    again.until_it_waits()
    assert (head.next_seq, again.source.next) == (7, 3), "a restart goes on behind what was shown of it"
