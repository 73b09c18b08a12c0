"""What the supervisor does about what goes wrong around it, without a stage being started."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline import config
from pipeline.errors import EXIT_CONFIG, EXIT_FAILED
from pipeline.process import StageProcess
from pipeline.roster import Roster
from pipeline.specs import Site
from pipeline.supervisor import Supervisor
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
