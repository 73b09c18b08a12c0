"""What is told of a running site, out of its run directory alone."""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from pipeline.commands import status
from pipeline.commands.status import table
from pipeline.process import StageEntry
from pipeline.status import Monitor
from pipeline.transport import run_directory
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Writer
from pipeline.types import FrameRef, Result
from tests.unit.stages.fakes import SMALL, FakeClock, grey, head_in


def entry(name: str, **changes: object) -> StageEntry:
    whole = StageEntry(name=name, state="running", pid=os.getpid(), restarts=0, reason=None, start_at_s=0.0)
    return msgspec.structs.replace(whole, **changes)


def describe(directory: Path, *entries: StageEntry, run_id: str = "r") -> None:
    description = {"name": "hall", "pid": 1, "run_id": run_id, "processes": [msgspec.to_builtins(e) for e in entries]}
    (directory / "site.json").write_text(json.dumps(description))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def monitor(tmp_path: Path, clock: FakeClock) -> Iterator[Monitor]:
    for source in ("gate", "yard"):
        head_in(tmp_path, source).close()
        ResultLog.create(tmp_path, source).close()
    describe(tmp_path, entry("capture/gate"), entry("capture/yard"))
    monitor = Monitor(tmp_path, clock_ns=clock)
    yield monitor
    monitor.close()


def test_rates_are_since_the_report_before(tmp_path: Path, monitor: Monitor, clock: FakeClock) -> None:
    head, results = Head.attach(tmp_path, "gate"), ResultLog.attach(tmp_path, "gate")
    writer = Writer(head, lossless=False)
    monitor.read()
    for seq in range(50):
        clock.pass_s(0.04)
        grey(20).copy_to(writer.claim(SMALL))
        writer.publish(time_s=seq / 25, captured_ns=clock(), wall_ns=0)
        looked = seq % 5 == 0
        result = Result(FrameRef("gate", seq, 0, seq / 25, clock(), 0), (), looked, None if looked else "rate")
        results.commit(result, [], None)
        results.note_latency(result, clock() + 7_000_000)
    clock.pass_s(0.5)
    for state in ("live", "stalled", "live"):
        head.tell(state, "", now_ns=clock(), wall_ns=0)
    sources = monitor.read().sources
    gate, yard = sources["gate"], sources["yard"]
    assert (gate.fps, gate.detected_fps) == (20.0, 4.0)  # 50 and 10 in 2.5 s
    assert (gate.frames, gate.detected, gate.skipped, gate.newest_s) == (50, 10, {"rate": 40}, 0.5)
    assert gate.latency_ms["p50"] == pytest.approx(7, rel=0.03)
    assert (gate.losses, gate.reconnects) == (1, 1)
    assert (yard.state, yard.fps, yard.newest_s, yard.latency_ms["p99"]) == ("connecting", 0.0, None, None)


def test_a_source_says_how_it_stands_and_since_when(tmp_path: Path, monitor: Monitor, clock: FakeClock) -> None:
    head = Head.attach(tmp_path, "gate")
    head.tell("live", "", now_ns=clock(), wall_ns=0)
    head.tell("backing_off", "refused", now_ns=clock(), wall_ns=0)
    clock.pass_s(12)
    gate = monitor.read().sources["gate"]
    assert (gate.state, gate.reason, gate.since_s) == ("backing_off", "refused", 12.0)
    assert (gate.losses, gate.reconnects) == (1, 0)
    head.changes.add("live", "", since_ns=clock(), wall_ns=0, time_s=1, seq=0)
    head.end("stopped")
    assert monitor.read().sources["gate"].reconnects == 1
    assert (monitor.read().sources["gate"].state, monitor.read().sources["gate"].reason) == ("ended", "stopped")


def test_a_source_whose_capture_does_not_run_is_not_live(tmp_path: Path, monitor: Monitor, clock: FakeClock) -> None:
    camera, film = Head.attach(tmp_path, "gate"), Head.attach(tmp_path, "yard")
    camera.changes.add("live", "", since_ns=clock(), wall_ns=0, time_s=0, seq=0)
    camera.next_seq = film.next_seq = 20

    def shown(**changes: object) -> set[tuple[str, str, float | None]]:
        gone = {"pid": None, "reason": "killed by SIGSEGV", "restarts": 3, **changes}
        describe(tmp_path, entry("capture/gate", **gone), entry("capture/yard", **gone))
        return {(source.state, source.reason, source.since_s) for source in monitor.read().sources.values()}

    assert shown(state="waiting", start_at_s=300.0) == {("backing_off", "killed by SIGSEGV", None)}
    assert shown(state="waiting") == {("connecting", "killed by SIGSEGV", None)}
    assert shown(state="starting") == {("connecting", "killed by SIGSEGV", None)}
    assert shown(state="starting", reason=None) == {("connecting", "", None)}
    assert shown(state="running") == {("live", "", 0.0), ("live", "", None)}
    camera.end("stopped")
    film.end("end_of_stream")
    assert shown(state="done") == {("ended", "stopped", None), ("ended", "end_of_stream", None)}


def test_stages_are_told_with_what_they_cost(tmp_path: Path, monitor: Monitor, clock: FakeClock) -> None:
    monitor.read()
    before_s = os.times()
    while sum(os.times()[:2]) < sum(before_s[:2]) + 0.1:
        pass
    clock.pass_s(1)
    stage = monitor.read().stages["capture/gate"]
    assert stage.cpu is not None
    assert stage.cpu >= 0.08
    assert stage.memory_mb is not None
    assert stage.memory_mb > 5


def test_what_is_not_well_is_said(tmp_path: Path, monitor: Monitor, clock: FakeClock) -> None:
    failed = entry("inference/all", state="failed", pid=None, reason="out of memory")
    hung = entry("events", state="waiting", pid=None, restarts=9, reason="no sign of life for 20 s", start_at_s=13.0)
    describe(tmp_path, entry("capture/gate"), entry("capture/yard"), failed, hung)
    report = monitor.read()
    assert (report.ready, report.failed) == (False, ["inference/all"])
    assert report.stages["events"].restart_in_s == 12.0
    assert report.stages["events"].memory_mb is None
    shown = io.StringIO()
    Console(file=shown, width=200).print(table(report))
    assert "no sign of life for 20 s; starts again in 12 s" in shown.getvalue()


def test_sources_come_and_go(tmp_path: Path, monitor: Monitor) -> None:
    assert list(monitor.read().sources) == ["gate", "yard"]
    head_in(tmp_path, "roof").close()
    ResultLog.create(tmp_path, "roof").close()
    describe(tmp_path, entry("capture/yard"), entry("capture/roof"))
    assert list(monitor.read().sources) == ["yard", "roof"]


def test_a_site_that_has_ended_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Monitor(tmp_path / "gone").read()


def test_another_run_of_the_site_is_not_told_with_the_figures_of_the_dead(tmp_path: Path, monitor: Monitor) -> None:
    Head.attach(tmp_path, "gate").next_seq = 1000
    assert monitor.read().sources["gate"].frames == 1000
    for source in ("gate", "yard"):
        head_in(tmp_path, source).close()
        ResultLog.create(tmp_path, source).close()
    describe(tmp_path, entry("capture/gate"), entry("capture/yard"), run_id="next")
    gate = monitor.read().sources["gate"]
    assert (gate.frames, gate.fps) == (0, None)


@pytest.mark.parametrize(("option", "code"), [("--once", 1), ("--json", 1), ("", 0)])
def test_a_supervisor_that_was_killed_is_told_as_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, code: int
) -> None:
    base = tmp_path / "base"
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(base))
    with run_directory.RunDirectory("hall") as directory:
        head_in(directory.path, "gate").close()
        ResultLog.create(directory.path, "gate").close()
        describe(directory.path, entry("capture/gate"))
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(directory._lock, fcntl.LOCK_UN))
        options = argparse.Namespace(name="hall", once=option == "--once", json=option == "--json")
        assert status.main(options) == code
    assert capsys.readouterr() == ("", "hall has ended\n")
