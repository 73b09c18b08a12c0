"""A stage that dies again and again is given up, and the rest makes the best of it."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.plan import ANNOTATOR
from tests.numbered import read_numbered
from tests.runs import Outcome, Program, Run, Told, kill, told_in, wait_until

STRICT = """
import sys
from pipeline import budget, cli
budget.RESTARTS_MAX = 1
sys.exit(cli.main())
"""
"""The program itself, which gives a stage one more chance and no other."""


def start(program: Program, video: Path) -> Run:
    arguments = ("run", "--json", "--source", video, "--record", "out.mp4", "--events", "events.jsonl")
    return program.start(*arguments, command=(sys.executable, "-c", STRICT))


def kill_twice(run: Run, job: str) -> None:
    first = run.await_stage(job)
    kill(first)
    wait_until(lambda: run.stage_pid(job) not in (None, first), f"another process for {job}")
    kill(run.await_stage(job))


def check_reason(outcome: Outcome, stage: str) -> None:
    assert outcome.code == 1, outcome.stderr
    [line] = outcome.errors
    assert f"{stage} was killed by SIGKILL, 2 times within 60 s, and is not started again" in line
    assert "killed by SIGKILL, 2 times" in outcome.report["exit"]["reason"]


def test_without_inference_what_it_has_seen_is_recorded(program: Program, face_video: Path) -> None:
    run = start(program, face_video)
    with run.results("face") as results:
        wait_until(lambda: results.published >= 20, "some results")
        kill_twice(run, "inference")
    outcome = run.finish()
    check_reason(outcome, "inference/quick")
    frames = outcome.report["frames"]
    recorded = [frame.number for frame in read_numbered(program.cwd / "out.mp4")]
    assert recorded == list(range(frames["written"]))
    assert 20 <= frames["written"] < frames["decoded"] < 100
    assert frames["skipped"] == {"not_reached": frames["decoded"] - frames["written"]}
    program.assert_nothing_left()


def test_without_capture_what_was_captured_is_recorded(program: Program, face_video: Path) -> None:
    run = start(program, face_video)
    with run.results("face") as results:
        wait_until(lambda: results.published >= 20, "some results")
        kill_twice(run, "capture")
    outcome = run.finish()
    check_reason(outcome, "capture/face")
    frames = outcome.report["frames"]
    assert 20 <= frames["decoded"] == frames["detected"] == frames["written"] < 100
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(frames["written"]))
    program.assert_nothing_left()


def test_without_the_recorder_events_go_on(program: Program, short_video: Path, short_events: list[Told]) -> None:
    run = start(program, short_video)
    with run.head("short") as head:
        wait_until(lambda: head.position(ANNOTATOR) >= 10, "some recorded frames")
        kill_twice(run, "annotator")
    outcome = run.finish()
    check_reason(outcome, "annotator/short")
    frames = outcome.report["frames"]
    assert frames["decoded"] == frames["detected"] == 60
    assert 10 <= frames["written"] < 60
    assert outcome.report["sources"]["short"]["missing"] == [f"{frames['written']}-59"]
    assert not (program.cwd / "out.mp4").exists()
    [part, *_] = program.cwd.glob("out.part-*.mp4")
    assert [frame.number for frame in read_numbered(part)] == list(range(frames["written"]))
    assert told_in(program.cwd / "events.jsonl") == short_events


def test_without_the_events_the_recording_goes_on(program: Program, short_video: Path) -> None:
    run = start(program, short_video)
    with run.results("short") as results:
        wait_until(lambda: results.published >= 5, "some results")
        kill_twice(run, "events")
    outcome = run.finish()
    check_reason(outcome, "events")
    assert outcome.report["frames"] == {"decoded": 60, "detected": 60, "written": 60, "skipped": {}}
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(60))
    program.assert_nothing_left()
