"""A source that does not wait: what is looked at is fresh, and whatever is not is counted, by cause."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import COUNT
from tests.numbered import read_numbered
from tests.runs import Program, kill, wait_until


def spread(ranges: list[str]) -> list[int]:
    """["3-5", "9"] → [3, 4, 5, 9]."""
    ends = [[int(end) for end in text.split("-")] for text in ranges]
    return [number for pair in ends for number in range(pair[0], pair[-1] + 1)]


@pytest.mark.parametrize("job", ["inference", "annotator"])
@pytest.mark.parametrize("how", ["held", "killed"])
def test_a_late_stage_loses_frames_and_says_which(program: Program, plain_path: str, job: str, how: str) -> None:
    """Four seconds of a file at its own speed; a stage is away for a second of them."""
    run = program.start("run", "--json", "--realtime", "--source", plain_path, "--record", "out.mp4")
    with run.head("plain") as head:
        pid = run.await_stage(job)
        wait_until(lambda: head.next_seq >= 20, "twenty frames")
        if how == "killed":
            kill(pid)
        else:
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: head.next_seq >= 50, "thirty more")
            os.kill(pid, signal.SIGCONT)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    report = outcome.report
    frames = report["frames"]
    assert frames["decoded"] == COUNT
    assert frames["detected"] + sum(frames["skipped"].values()) >= COUNT - 1  # one may fall between commit and count
    assert set(frames["skipped"]) <= {"overload", "expired"}
    if (job, how) == ("inference", "held"):
        assert sum(frames["skipped"].values()) >= 20
    missing = spread(report["sources"]["plain"]["missing"])
    recorded = [frame.number for frame in read_numbered(program.cwd / "out.mp4")]
    assert recorded == [number for number in range(COUNT) if number not in missing]
    assert frames["written"] == len(recorded)
    program.assert_nothing_left()


def test_a_killed_capture_goes_on_at_its_own_speed(program: Program, plain_path: str) -> None:
    run = program.start("run", "--json", "--realtime", "--source", plain_path, "--record", "out.mp4")
    with run.head("plain") as head:
        pid = run.await_stage("capture")
        wait_until(lambda: head.next_seq >= 20, "twenty frames")
        kill(pid)
        outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["frames"]["decoded"] == COUNT
    missing = spread(outcome.report["sources"]["plain"]["missing"])
    recorded = read_numbered(program.cwd / "out.mp4")
    assert [frame.number for frame in recorded] == [number for number in range(COUNT) if number not in missing]
    times = [frame.time_s for frame in recorded]
    assert times == sorted(set(times))


def test_an_endless_test_pattern_ends_with_ctrl_c(program: Program) -> None:
    started_s = time.monotonic()
    run = program.start("run", "--json", "--source", "lavfi:testsrc2=size=320x180:rate=25", "--record", "out.mp4")
    with run.head("lavfi") as head:
        wait_until(lambda: head.next_seq >= 50, "fifty frames")
        run.signal(signal.SIGINT)
        outcome = run.finish()
    took_s = time.monotonic() - started_s
    assert outcome.code == 0, outcome.stderr
    decoded = outcome.report["frames"]["decoded"]
    assert 50 <= decoded <= 25 * took_s + 1
    assert outcome.report["frames"]["written"] + len(spread(outcome.report["sources"]["lavfi"]["missing"])) == decoded
    program.assert_nothing_left()


@pytest.fixture
def plain_path(plain_video: os.PathLike[str]) -> str:
    return os.fspath(plain_video)
