"""What the supervisor does about what goes wrong around it, without a stage being started."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest

from pipeline import config
from pipeline import process as process_module
from pipeline.errors import EXIT_CONFIG, EXIT_FAILED
from pipeline.process import StageProcess
from pipeline.roster import Roster
from pipeline.specs import Site
from pipeline.supervisor import OUTAGE_FROM_S, Supervisor
from tests.unit.test_reload_plan import HALL


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """One of HALL, prepared."""
    site = config.check(HALL, "hall.yaml")
    supervisor = Supervisor(site, reload=lambda: site)
    with closing(Roster(site, tmp_path, "run")) as supervisor._roster:
        yield supervisor


def test_a_configuration_that_cannot_be_read_is_not_taken_up(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> Site:
        raise OSError(errno.EMFILE, "Too many open files")

    supervisor._reload = read
    supervisor._signals.reload = True
    supervisor._reload_if_asked()
    assert "not taken up: [Errno 24] Too many open files" in caplog.text


@pytest.mark.parametrize(("late", "code"), [(False, EXIT_CONFIG), (True, EXIT_FAILED)])
def test_only_what_never_began_is_refused(supervisor: Supervisor, late: bool, code: int) -> None:
    [spec] = [process.spec for process in supervisor._roster.processes if process.spec.name == "capture/yard"]
    process = StageProcess(spec, late=late)
    process.state, process.exit_code, process.reason = "failed", EXIT_CONFIG, "no such file"
    supervisor._after_failure(process)
    assert supervisor._code == code


def test_a_camera_whose_capture_cannot_be_started_is_told_as_lost_once(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    roster = supervisor._roster
    capture = next(process for process in roster.processes if process.spec.name == "capture/yard")
    roster.processes[:] = [capture]
    head = roster.gauges.heads["yard"]
    head.tell("live", "", now_ns=1, wall_ns=1)

    def launch(stage: str, inherited: int) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(process_module, "launch", launch)
    supervisor._presence = -1
    while capture.start_at_s - time.monotonic() < 2 * OUTAGE_FROM_S:
        capture.hurry()
        supervisor._start_due()
    assert capture.reason == "not started: Too many open files"
    status = head.status
    assert status is not None
    assert (status.number, status.state, status.reason) == (1, "backing_off", "crashed")
