"""When a stage is started again: soon after one failure, ever later if it goes on failing, and shown meanwhile."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.budget import RESTART_DELAY_MAX_S, RESTART_DELAY_S, RESTARTS_MAX, WELL_S
from pipeline.child import Task
from pipeline.plan import StageSpec
from pipeline.process import StageProcess
from pipeline.types import Health
from tests.runs import wait_until


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def process(clock: Clock) -> Iterator[StageProcess]:
    process = StageProcess(StageSpec("capture/gate", ("gate",)), clock=clock)
    yield process
    process.kill()
    process.wait(10)


def dies(process: StageProcess, tmp_path: Path, hung: str | None = None, ran_s: float | None = None) -> float:
    """One life of a real process, which runs well for ``ran_s``; returns the delay before the next."""
    clock = process._clock
    assert isinstance(clock, Clock)
    task = Task("capture/gate", "run", str(tmp_path), "here", {}, False, os.getpid())
    inherited = os.open(tmp_path, os.O_RDONLY)
    process.start(task, inherited)
    os.close(inherited)
    assert process.pid is not None
    if ran_s is not None:
        for beat, passed_s in enumerate((0.0, ran_s)):
            clock.now_s += passed_s
            process.heard(Health("capture/gate", process.pid, "running", beat, {}))
        assert process.state == "running"
    process.kill(hung)
    wait_until(process.reap, "the end of the process", 30)
    assert process.state == "waiting"
    return process.start_at_s - clock.now_s


def test_the_delay_doubles_up_to_minutes(process: StageProcess, clock: Clock, tmp_path: Path) -> None:
    delays = []
    for _ in range(15):
        delays.append(dies(process, tmp_path, hung="no sign of life for 20 s"))
        clock.now_s += 20 + delays[-1]
    assert delays == pytest.approx([min(RESTART_DELAY_S * 2**n, RESTART_DELAY_MAX_S) for n in range(15)])
    entry = process.entry
    assert (entry.restarts, entry.reason, entry.state, entry.pid) == (15, "no sign of life for 20 s", "waiting", None)


@pytest.mark.parametrize("lasting", [True, False])
def test_what_serves_cameras_alone_is_never_given_up_once_it_has_run(
    process: StageProcess, tmp_path: Path, lasting: bool
) -> None:
    process.spec = replace(process.spec, lasting=lasting)
    dies(process, tmp_path, ran_s=1)
    for _ in range(RESTARTS_MAX - 1):
        dies(process, tmp_path)
    if lasting:
        assert dies(process, tmp_path) > 10
    else:
        with pytest.raises(AssertionError, match="failed"):
            dies(process, tmp_path)


def test_who_has_run_well_begins_anew(process: StageProcess, clock: Clock, tmp_path: Path) -> None:
    for _ in range(6):
        dies(process, tmp_path)
        clock.now_s += 20
    assert dies(process, tmp_path, ran_s=WELL_S - 1) > 1
    assert dies(process, tmp_path, ran_s=WELL_S) == pytest.approx(RESTART_DELAY_S)
    assert process.entry.reason == "killed by SIGKILL"


def test_a_run_that_ends_waits_for_nobody(process: StageProcess, clock: Clock, tmp_path: Path) -> None:
    for _ in range(7):
        dies(process, tmp_path)
        clock.now_s += 20
    assert dies(process, tmp_path) > 1
    process.hurry()
    assert process.start_at_s <= clock.now_s


@pytest.mark.parametrize(("module", "call"), [(subprocess, "Popen"), (os, "pidfd_open")])
def test_a_machine_without_room_for_a_process_is_tried_again(
    process: StageProcess, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(module, call, refuse)
    task = Task("capture/gate", "run", str(tmp_path), "here", {}, False, os.getpid())
    inherited = os.open(tmp_path, os.O_RDONLY)
    process.start(task, inherited)
    os.close(inherited)
    assert (process.state, process.alive, process.restarts) == ("waiting", False, 1)
    assert process.reason == "not started: Too many open files in system"
    assert process.start_at_s == pytest.approx(clock.now_s + RESTART_DELAY_S)
