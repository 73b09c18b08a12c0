"""The capture stage of a live source, with a source that does what a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.capture.live_stage import STUCK_S, LiveCaptureStage
from pipeline.capture.source import Pacing, SourceLost
from pipeline.transport.head import Head
from pipeline.types import Picture, SourceReason
from tests.cameras import await_state, changes
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeBell, FakeClock, as_bell, grey, head_in

LOSSES: dict[str, SourceReason] = {"refused": "refused", "ended": "ended", "timeout": "timeout"}


class FakeLive:
    """One connection after the other: pictures (``.``), damaged ones (``x``), and then a loss, by its reason.

    ``hangs`` instead of a reason: ``read`` does not return until ``release`` is set.
    """

    pacing: Pacing = "live"
    start_wall_ns = None
    expected_frames = None
    stall_s, reconnect_max_s = 5.0, 0.01
    damage_advice = "do something"
    undecoded = 0
    renewed = False

    def __init__(self, connections: Sequence[tuple[str, str]]) -> None:
        self._connections = list(connections)
        self._pictures = ""
        self._end = ""
        self.opened = self.closed = 0
        self.release = threading.Event()
        self.heard_s = time.monotonic()

    def open(self) -> None:
        self.opened += 1
        self.heard_s = time.monotonic()
        if not self._connections:
            raise SourceLost("nobody there", "refused")
        self._pictures, self._end = self._connections.pop(0)
        if not self._pictures:
            self.read()

    def seek(self, seq: int, last_s: float | None = None) -> None: ...

    def read(self) -> Picture:
        if self._pictures:
            self.heard_s = time.monotonic()
            kind, self._pictures = self._pictures[0], self._pictures[1:]
            return Picture(grey(50), time.monotonic() - 100 if kind == "<" else time.monotonic(), kind == "x")
        if self._end == "hangs":
            self.release.wait(30)
            raise SourceLost("released", "ended")
        if self._end == "breaks":
            raise ZeroDivisionError("a fault of ours")
        raise SourceLost(f"it is {self._end}", LOSSES[self._end])

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = head_in(tmp_path)
    yield head
    head.close()


def stage_of(source: FakeLive, head: Head) -> LiveCaptureStage:
    return LiveCaptureStage("capture/gate", source, head, as_bell(FakeBell()))


def run_until(stage: LiveCaptureStage, head: Head, frames: int, attempts: int, source: FakeLive) -> None:
    stage.open()
    wait_until(lambda: stage.step() is not None and head.next_seq >= frames and source.opened >= attempts, "frames", 30)


def finish(stage: LiveCaptureStage, source: FakeLive) -> None:
    stage.stop()
    assert stage.step() is None
    source.release.set()
    stage.close()


def test_it_connects_again_and_again_on_one_clock(head: Head) -> None:
    source = FakeLive([("", "refused"), ("...", "ended"), ("", "refused"), ("..<.", "timeout")])
    stage = stage_of(source, head)
    run_until(stage, head, 7, 6, source)
    finish(stage, source)
    times = [head.ref(seq).time_s for seq in range(7)]
    assert times == sorted(set(times))
    said = [(status.state, status.reason) for status in changes(head)]
    assert said[:9] == [
        ("connecting", ""), ("backing_off", "refused"), ("connecting", "refused"), ("live", ""),
        ("backing_off", "ended"), ("connecting", "ended"), ("backing_off", "refused"), ("connecting", "refused"),
        ("live", ""),
    ]  # fmt: skip
    assert said[9] == ("stalled", "timeout")
    assert said[-1] == ("ended", "ended")
    assert [status.seq for status in changes(head)[3:5]] == [0, 3]
    assert head.losses == 2
    assert (head.end_seq, head.end_reason) == (7, "stopped")


def test_damage_is_published_counted_and_told(head: Head, caplog: pytest.LogCaptureFixture) -> None:
    source = FakeLive([("..xx.", "hangs")])
    stage = stage_of(source, head)
    run_until(stage, head, 5, 1, source)
    finish(stage, source)
    assert [head.damaged(seq) for seq in range(5)] == [False, False, True, True, False]
    assert head.corrupt == 2
    assert [(s.state, s.reason) for s in changes(head)][1:3] == [("live", ""), ("live", "packet_loss")]
    assert caplog.messages == ["gate: pictures arrive damaged; do something"]


def test_a_stop_does_not_wait_for_a_source_that_hangs(head: Head) -> None:
    source = FakeLive([(".", "hangs")])
    stage = stage_of(source, head)
    run_until(stage, head, 1, 1, source)
    began_s = time.monotonic()
    stage.stop()
    assert stage.step() is None
    stage.close()
    assert time.monotonic() - began_s < 5
    assert head.end_seq == 1
    source.release.set()


class Holding(FakeLive):
    """Has something to hand over when it is closed."""

    head: Head
    handed_over_in_time = False

    def close(self) -> None:
        super().close()
        deadline_s = time.monotonic() + 0.1
        while self.head.end_seq is None and time.monotonic() < deadline_s:
            time.sleep(0.001)
        self.handed_over_in_time = self.head.end_seq is None


def test_a_stopped_stream_ends_behind_what_its_source_still_holds(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.capture.live_stage.LEAVING_S", 30)
    source = Holding([(".", "hangs")])
    source.head = head
    stage = stage_of(source, head)
    run_until(stage, head, 1, 1, source)
    source.release.set()
    finish(stage, source)
    assert source.handed_over_in_time
    assert head.end_reason == "stopped"


def test_silence_is_told_although_the_source_does_not_return(head: Head) -> None:
    source = FakeLive([(".", "hangs")])
    source.stall_s = 0.1
    stage = stage_of(source, head)
    run_until(stage, head, 1, 1, source)
    wait_until(lambda: stage.step() is not None and head.status is not None and head.status.state == "stalled", "it")
    source.release.set()
    assert await_state(head, "backing_off").reason == "ended"
    finish(stage, source)


def test_packets_that_are_not_decoded_keep_it_live(head: Head) -> None:
    """Under load only key frames are, which may be further apart than the deadline."""
    clock = FakeClock()
    source = FakeLive([(".", "hangs")])
    stage = LiveCaptureStage("capture/gate", source, head, as_bell(FakeBell()), clock_ns=clock)
    stage.open()
    await_state(head, "live")
    clock.pass_s(source.stall_s + 1)
    source.heard_s = clock.now_ns / 1e9 - 1
    stage.step()
    assert changes(head)[-1].state == "live"
    clock.pass_s(source.stall_s - 1)
    stage.step()
    assert changes(head)[-1].state == "stalled"
    finish(stage, source)


def test_a_long_wait_behind_a_silence_is_no_fault(head: Head, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.capture.connection.FIRST_WAIT_S", 1000.0)
    clock = FakeClock()
    source = FakeLive([(".", "timeout")])
    source.reconnect_max_s = 3600
    stage = LiveCaptureStage("capture/gate", source, head, as_bell(FakeBell()), clock_ns=clock)
    stage.open()
    await_state(head, "stalled")
    source.heard_s = clock.now_ns / 1e9
    clock.pass_s(source.stall_s + STUCK_S + 100)
    assert stage.step() is not None
    finish(stage, source)


def test_nothing_is_opened_before_everything_behind_it_runs(head: Head) -> None:
    head.held = True
    source = FakeLive([(".", "hangs")])
    stage = stage_of(source, head)
    stage.open()
    stage.step()
    assert source.opened == 0
    head.held = False
    wait_until(lambda: head.next_seq == 1, "the first frame", 30)
    finish(stage, source)


def test_a_stop_is_no_loss(head: Head) -> None:
    source = FakeLive([(".", "hangs")])
    stage = stage_of(source, head)
    run_until(stage, head, 1, 1, source)
    finish(stage, source)
    assert (changes(head)[-2].state, changes(head)[-1].state) == ("live", "ended")
    assert head.losses == 0


def test_a_fault_of_ours_takes_the_stage_down(head: Head) -> None:
    source = FakeLive([(".", "breaks")])
    stage = stage_of(source, head)
    stage.open()
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: stage.step() is None, "the end", 30)
    stage.close()


def test_a_restarted_capture_goes_on_behind_the_last_frame(head: Head) -> None:
    for frames in (2, 4):
        source = FakeLive([("..", "hangs")])
        source.undecoded = 3
        stage = stage_of(source, head)
        run_until(stage, head, frames, 1, source)
        source.release.set()
        stage.close()
    times = [head.ref(seq).time_s for seq in range(4)]
    assert times == sorted(set(times))
    assert times[-1] < 60
    assert head.undecoded == 6


def test_a_stream_that_has_ended_is_not_opened_again(head: Head) -> None:
    head.end("stopped")
    source = FakeLive([(".", "hangs")])
    stage = stage_of(source, head)
    stage.open()
    assert stage.step() is None
    stage.close()
    assert source.opened == 0


def test_what_never_comes_back_takes_the_process_down_but_waiting_for_others_does_not(head: Head) -> None:
    clock = FakeClock()
    head.held = True
    source = FakeLive([(".", "hangs")])
    source.heard_s = 0
    stage = LiveCaptureStage("capture/gate", source, head, as_bell(FakeBell()), clock_ns=clock)
    stage.open()
    clock.pass_s(1000)
    stage.step()
    head.held = False
    wait_until(lambda: head.next_seq == 1, "the first frame", 30)
    source.heard_s = clock.now_ns / 1e9
    clock.pass_s(source.stall_s + STUCK_S - 1)
    stage.step()
    clock.pass_s(2)
    with pytest.raises(RuntimeError, match="has not come back for 66 s"):
        stage.step()
    source.release.set()
    stage.close()
