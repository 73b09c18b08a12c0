"""Ctrl-C, twice, and the sudden death of the supervisor itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.numbered import read_numbered
from tests.runs import Program, Run, kill, processes_with, told_in, wait_until

CAPTURED_MIN = 20


def start(program: Program, video: Path, *more: str) -> Run:
    return program.start("run", "--json", "--source", video, "--record", "out.mp4", "--events", "events.jsonl", *more)


def numbers(path: Path) -> list[int]:
    return [frame.number for frame in read_numbered(path)]


def test_ctrl_c_records_what_was_captured(program: Program, face_video: Path) -> None:
    run = start(program, face_video)
    with run.head("face") as head:
        wait_until(lambda: head.next_seq >= CAPTURED_MIN, "some frames")
        run.signal(signal.SIGINT)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    report = outcome.report
    captured = report["frames"]["decoded"]
    assert CAPTURED_MIN <= captured < 100
    assert report["frames"] == {"decoded": captured, "detected": captured, "written": captured, "skipped": {}}
    assert report["sources"]["face"]["ended"] == "stopped"
    assert report["restarts"] == {}
    assert numbers(program.cwd / "out.mp4") == list(range(captured))
    told = told_in(program.cwd / "events.jsonl")
    assert [(event.phase, event.reason) for event in told] == [("new", None), ("end", "stopped")]
    program.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_other_signals_are_the_same(program: Program, plain_video: Path, number: signal.Signals) -> None:
    run = start(program, plain_video)
    with run.head("plain") as head:
        wait_until(lambda: head.next_seq >= CAPTURED_MIN, "some frames")
        os.kill(run.pid, number)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert numbers(program.cwd / "out.mp4") == list(range(outcome.report["frames"]["decoded"]))
    program.assert_nothing_left()


def test_a_site_that_runs_is_not_started_twice(program: Program, face_video: Path) -> None:
    (program.cwd / "site.yaml").write_text(
        f"""
name: gate
sources: {{gate: {{kind: file, path: {face_video}, realtime: true, loop: true}}}}
detectors: {{mask: {{model: aizoo-260}}}}
pipelines: {{all: {{sources: [gate], detector: mask}}}}
"""
    )
    first = program.start("run", "site.yaml", "--json")
    with first.results("gate") as results:
        wait_until(lambda: results.published >= 3, "some results")
        second = program.run("run", "site.yaml")
        assert second.code == 3
        [line] = second.errors
        assert "'gate' is running already" in line
        published = results.published
        wait_until(lambda: results.published > published + 3, "that the first goes on")
        first.signal(signal.SIGINT)
    assert first.finish().code == 0
    program.assert_nothing_left()


def test_ctrl_c_before_anything_has_begun(program: Program, plain_video: Path) -> None:
    run = start(program, plain_video)
    run.await_stage("capture")
    run.signal(signal.SIGINT)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["frames"]["decoded"] == 0
    assert outcome.report["restarts"] == {}
    assert "killed" not in outcome.stderr
    assert list(program.cwd.glob("*.mp4")) == []
    program.assert_nothing_left()


@pytest.mark.parametrize("begun", [False, True])
def test_a_second_ctrl_c_ends_at_once(program: Program, face_video: Path, begun: bool) -> None:
    """What is in the ring is still recorded, because that takes no time."""
    run = start(program, face_video)
    with run.head("face") as head, run.results("face") as results:
        inference = run.await_stage("inference")
        if begun:
            wait_until(lambda: results.published >= CAPTURED_MIN, "some results")
        run.signal(signal.SIGINT)
        wait_until(lambda: head.end_seq is not None, "the end of the stream")
        run.signal(signal.SIGINT)
        outcome = run.finish(20)
    assert outcome.report["frames"]["decoded"] < 100
    if begun:
        assert numbers(program.cwd / "out.mp4") == list(range(outcome.report["frames"]["written"]))
    assert inference not in processes_with(program.run_base)
    program.assert_nothing_left()


def test_a_third_ctrl_c_ends_what_hangs(program: Program, face_video: Path) -> None:
    """What it held is said to be lost, and what was recorded can be played."""
    run = start(program, face_video)
    with run.results("face") as results:
        inference = run.await_stage("inference")
        wait_until(lambda: results.published >= CAPTURED_MIN, "some results")
        os.kill(inference, signal.SIGSTOP)
        presses = 0
        while (
            inference in processes_with(program.run_base) and presses < 60
        ):  # signals that come too close together are one
            run.signal(signal.SIGINT)
            presses += 1
            time.sleep(0.25)
    outcome = run.finish()
    assert presses < 20, "it was not the pressing that ended it"
    assert outcome.code == 1
    assert "was killed, because it did not end when asked to" in outcome.report["exit"]["reason"]
    assert not (program.cwd / "out.mp4").exists()
    [part] = program.cwd.glob("out.part-*.mp4")
    assert len(numbers(part)) >= CAPTURED_MIN - 1
    assert processes_with(program.run_base) == {}
    assert list(program.run_base.iterdir()) == []


def test_the_supervisor_dies_and_its_stages_end_well(program: Program, face_video: Path) -> None:
    """Nobody is left behind; what was captured is recorded; the same site can be started again at once."""
    run = start(program, face_video)
    with run.head("face") as head:
        wait_until(lambda: head.next_seq >= CAPTURED_MIN, "some frames")
        assert kill(run.pid)
        again = start(program, face_video, "--overwrite")
        wait_until(lambda: head.end_seq is not None, "the end of the stream")
        captured = head.next_seq
    outcome = again.finish()
    assert outcome.code == 0, outcome.stderr
    assert CAPTURED_MIN <= captured < 100
    assert numbers(program.cwd / "out.mp4") == list(range(100))
    program.assert_nothing_left()


def test_all_die_together_and_the_next_run_rescues_the_recording(program: Program, face_video: Path) -> None:
    """As when the power fails: the next run clears what is left and joins what had been recorded."""
    run = start(program, face_video)
    with run.results("face") as results, run.head("face") as head:
        wait_until(lambda: head.position("annotator") >= CAPTURED_MIN, "some recorded frames")
        for pid in [run.pid, *processes_with(program.run_base)]:
            kill(pid)
        wait_until(lambda: not processes_with(program.run_base), "the end of all")
        recorded, published = head.position("annotator"), results.published
    assert list(program.run_base.iterdir()) != []
    [part] = program.cwd.glob("out.part-*.mp4")
    assert numbers(part) == list(range(len(numbers(part))))
    assert recorded <= len(numbers(part)) <= published

    outcome = program.run("run", "--json", "--source", face_video, "--record", "out.mp4")
    assert outcome.code == 0, outcome.stderr
    assert numbers(program.cwd / "out.mp4") == list(range(100))
    [rescued] = program.cwd.glob("out.recovered-*.mp4")
    assert recorded <= len(numbers(rescued)) <= published
    program.assert_nothing_left()
