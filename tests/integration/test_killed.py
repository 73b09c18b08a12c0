"""kill -9 of any stage, at any moment: it is started again, and nobody can tell from what comes out."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from tests.numbered import read_numbered
from tests.runs import Program, Run, Told, kill, told_in, wait_until

COUNT = 60
Moment = Callable[[Head, ResultLog], bool]


def first_frame(head: Head, _: ResultLog) -> bool:
    return head.next_seq > 0


def first_result(_: Head, results: ResultLog) -> bool:
    return results.published > 0


def middle(_: Head, results: ResultLog) -> bool:
    return results.published >= 25


def first_event(_: Head, results: ResultLog) -> bool:
    return results.events_taken > 0


def all_but_read(head: Head, _: ResultLog) -> bool:
    return head.next_seq >= COUNT - 2


def all_decoded(head: Head, _: ResultLog) -> bool:
    return head.end_seq is not None


def all_published(_: Head, results: ResultLog) -> bool:
    return results.published == COUNT


def all_said(_: Head, results: ResultLog) -> bool:
    return results.finished


CASES: list[tuple[str, Moment]] = [
    ("capture", first_frame),
    ("capture", middle),
    ("capture", all_but_read),
    ("inference", first_frame),
    ("inference", first_result),
    ("inference", all_decoded),
    ("inference", all_published),
    ("annotator", first_result),
    ("annotator", all_decoded),
    ("annotator", all_published),
    ("events", first_event),
    ("events", all_said),
]


@pytest.mark.parametrize(("job", "moment"), CASES, ids=[f"{job}-{moment.__name__}" for job, moment in CASES])
def test_one_kill(program: Program, short_video: Path, short_events: list[Told], job: str, moment: Moment) -> None:
    run = start(program, short_video)
    with run.head("short") as head, run.results("short") as results:
        pid = run.await_stage(job)
        wait_until(lambda: moment(head, results), moment.__name__)
        killed = kill(pid)
    check(program, run, short_events, {job: int(killed)})


@pytest.mark.parametrize("job", ["capture", "inference", "annotator", "events"])
def test_killed_while_it_starts(program: Program, short_video: Path, short_events: list[Told], job: str) -> None:
    """At once, and again somewhere in the first second of its second life."""
    run = start(program, short_video)
    first = run.await_stage(job)
    assert kill(first)
    wait_until(lambda: run.stage_pid(job) not in (None, first), f"another process for {job}")
    second = run.await_stage(job)
    time.sleep(random.Random(job).uniform(0, 1))
    killed = kill(second)
    check(program, run, short_events, {job: 1 + killed})


@pytest.mark.parametrize("after_ms", [0, 4, 16])
def test_the_annotator_dies_while_it_joins(
    program: Program, short_video: Path, short_events: list[Told], after_ms: int
) -> None:
    """It is held just before the end until all else is done, so that what follows is the end and the joining."""
    run = start(program, short_video)
    with run.head("short") as head, run.results("short") as results:
        pid = run.await_stage("annotator")
        wait_until(lambda: head.position("annotator") >= COUNT - 15, "nearly the end of the recording")
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: results.finished, "the end of inference")
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: head.position("annotator") >= COUNT - 1, "the last frame")
        time.sleep(after_ms / 1000)
        killed = kill(pid)
    check(program, run, short_events, {"annotator": int(killed)})


def test_everything_dies_at_once(program: Program, short_video: Path, short_events: list[Told]) -> None:
    run = start(program, short_video)
    jobs = ("capture", "inference", "annotator", "events")
    with run.results("short") as results:
        pids = {job: run.await_stage(job) for job in jobs}
        wait_until(lambda: results.published >= 20, "twenty results")
        killed = {job: int(kill(pid)) for job, pid in pids.items()}
    check(program, run, short_events, killed)


def test_two_sources_recorded_into_a_directory(program: Program, short_video: Path, short_events: list[Told]) -> None:
    """One inference serves both, and each recorder remembers the name that it has chosen."""
    (program.cwd / "site.yaml").write_text(
        f"""
name: entrance
sources: {{short: {{kind: file, path: {short_video}}}, other: {{kind: file, path: {short_video}}}}}
detectors: {{mask: {{model: facemask}}}}
rules: {{no_mask: {{kind: no_mask}}}}
sinks: {{recordings: {{kind: recorder, directory: recordings}}, log: {{kind: jsonl, path: events.jsonl}}}}
pipelines: {{all: {{sources: [short, other], detector: mask, rules: [no_mask], sinks: [recordings, log]}}}}
"""
    )
    run = program.start("run", "site.yaml", "--json")
    with run.results("short") as results, run.results("other") as others:
        wait_until(lambda: min(results.published, others.published) >= 15, "some results of both")
        assert kill(run.await_stage("inference"))
        wait_until(lambda: min(results.published, others.published) >= 25, "some more")
        assert kill(run.await_stage("annotator"))
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert sum(outcome.report["restarts"].values()) == 2
    for source in ("short", "other"):
        [recording] = (program.cwd / "recordings").glob(f"{source}-*.mp4")
        assert [frame.number for frame in read_numbered(recording)] == list(range(COUNT))
        told = [event for event in told_in(program.cwd / "events.jsonl") if event.source == source]
        assert [event[4:] for event in told] == [event[4:] for event in short_events]
    program.assert_nothing_left()


def start(program: Program, video: Path) -> Run:
    return program.start("run", "--json", "--source", video, "--record", "out.mp4", "--events", "events.jsonl")


def check(program: Program, run: Run, events: list[Told], killed: dict[str, int]) -> None:
    """Nothing is missing, twice, or left; the report says how often what was started again."""
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    report = outcome.report
    assert {stage.partition("/")[0]: count for stage, count in report["restarts"].items()} == {
        job: count for job, count in killed.items() if count
    }
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(COUNT))
    assert report["frames"]["decoded"] == report["frames"]["written"] == COUNT
    # The figures are counted behind the commit: a kill between the two forgets one.
    assert COUNT - killed.get("inference", 0) <= report["frames"]["detected"] <= COUNT
    assert report["frames"]["skipped"] == {}
    assert told_in(program.cwd / "events.jsonl") == events
    program.assert_nothing_left()
