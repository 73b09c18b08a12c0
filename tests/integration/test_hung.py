"""A stage that hangs, and one that is merely slow."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from tests.numbered import read_numbered
from tests.runs import Program, Told, told_in, wait_until

IMPATIENT = """
import sys
from pipeline import cli, supervisor
supervisor.SILENT_MAX_S = 3.0
sys.exit(cli.main())
"""
"""The program itself, with less patience."""


def test_a_stage_that_hangs_is_started_again(program: Program, short_video: Path, short_events: list[Told]) -> None:
    arguments = ("run", "--json", "--source", short_video, "--record", "out.mp4", "--events", "events.jsonl")
    run = program.start(*arguments, command=(sys.executable, "-c", IMPATIENT))
    with run.results("short") as results:
        inference = run.await_stage("inference")
        wait_until(lambda: results.published >= 15, "some results")
        os.kill(inference, signal.SIGSTOP)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {"inference/quick": 1}
    assert "inference/quick has shown no sign of life for 3 s" in outcome.stderr
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(60))
    assert told_in(program.cwd / "events.jsonl") == short_events
    program.assert_nothing_left()


def test_a_slow_recorder_holds_a_file_back_and_loses_nothing(program: Program, plain_video: Path) -> None:
    run = program.start("run", "--json", "--source", plain_video, "--record", "out.mp4")
    with run.head("plain") as head, run.results("plain") as results:
        annotator = run.await_stage("annotator")
        wait_until(lambda: results.published >= 10, "some results")
        os.kill(annotator, signal.SIGSTOP)
        wait_until(lambda: head.next_seq == results.published, "that the ring is full and all of it looked at")
        held, started_s = head.next_seq, time.monotonic()
        wait_until(lambda: time.monotonic() > started_s + 1.5, "a while")
        assert head.next_seq <= held + 1
        assert head.next_seq - head.position("annotator") <= 16
        os.kill(annotator, signal.SIGCONT)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {}
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(100))


def test_events_do_not_depend_on_the_speed(program: Program, short_video: Path, short_events: list[Told]) -> None:
    """Inference in bursts, and one frame at a time in flight: the same events to the letter."""
    (program.cwd / "slow.yaml").write_text(
        f"""
name: slow
sources: {{short: {{kind: file, path: {short_video}}}}}
detectors: {{mask: {{model: facemask, in_flight: 1}}}}
rules: {{no_mask: {{kind: no_mask}}}}
sinks: {{log: {{kind: jsonl, path: events.jsonl}}}}
pipelines: {{all: {{sources: [short], detector: mask, rules: [no_mask], sinks: [log]}}}}
"""
    )
    run = program.start("run", "slow.yaml", "--json")
    with run.results("short") as results:
        inference = run.await_stage("inference")
        while not results.finished:
            os.kill(inference, signal.SIGSTOP)
            time.sleep(0.05)
            os.kill(inference, signal.SIGCONT)
            time.sleep(0.05)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert told_in(program.cwd / "events.jsonl") == short_events
