"""What the supervisor does about what goes wrong around it, without a stage being started."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline import config, plan
from pipeline.errors import EXIT_CONFIG, EXIT_FAILED, StartupError
from pipeline.report import Gauges
from pipeline.specs import Site
from pipeline.supervisor import Supervisor
from pipeline.transport.head import LOSSLESS
from tests.unit.test_reload_plan import GATE, HALL, ROOF, hall


class FullDirectory:
    """A run directory in a /dev/shm that is full until it is not."""

    full = True
    described: dict[str, Any] | None = None

    def describe(self, description: dict[str, Any]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.described = description


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """One of HALL, prepared."""
    site = config.check(HALL, "hall.yaml")
    plan.prepare(site, tmp_path)
    supervisor = Supervisor(site, reload=lambda: site)
    supervisor._run_dir = tmp_path
    with closing(Gauges(site.sources, tmp_path)) as supervisor._gauges:
        yield supervisor


def reload(supervisor: Supervisor, site: Site | Exception) -> None:
    def read() -> Site:
        if isinstance(site, Exception):
            raise site
        return site

    supervisor._reload = read
    supervisor._signals.reload = True
    supervisor._reload_if_asked()


def test_a_full_shared_memory_is_told_once_and_tried_again(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor._directory = directory = FullDirectory()  # type: ignore[assignment]
    for _ in range(3):
        supervisor._describe()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    directory.full = False
    supervisor._describe()
    assert directory.described is not None


def test_a_configuration_that_cannot_be_read_is_not_taken_up(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    reload(supervisor, OSError(errno.EMFILE, "Too many open files"))
    assert "not taken up: [Errno 24] Too many open files" in caplog.text


def hall_with(**sources: Any) -> Site:
    return config.check(hall(**HALL["sources"], **sources), "hall.yaml")


def test_what_is_refused_leaves_nothing_behind(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(tmp_path.iterdir())
    prepare = plan.prepare_source

    def prepare_one(site: Site, source: str, run_dir: Path) -> None:
        if source == "tower":
            raise StartupError("shared memory is too small")
        prepare(site, source, run_dir)

    monkeypatch.setattr(plan, "prepare_source", prepare_one)
    reload(supervisor, hall_with(roof=ROOF, tower=ROOF))
    assert sorted(tmp_path.iterdir()) == before
    assert list(supervisor._gauges.heads) == ["gate", "yard"]
    monkeypatch.undo()
    reload(supervisor, hall_with(roof=ROOF, tower=ROOF))
    assert list(supervisor._gauges.heads) == ["gate", "yard", "roof", "tower"]


def test_a_source_that_is_corrected_after_its_end_goes_on_in_numbers_alone(supervisor: Supervisor) -> None:
    head = supervisor._gauges.heads["yard"]
    head.next_seq = 50
    head.end("failed: no such file")
    head.detach(plan.INFERENCE)
    for process in supervisor._processes:
        if "yard" in process.spec.sources and process.spec.job in (plan.CAPTURE, plan.ANNOTATOR):
            process.end_well()
    reload(supervisor, config.check(hall(gate=GATE, yard=ROOF), "hall.yaml"))
    assert (head.end_seq, head.first_seq_here, head.part(plan.INFERENCE)) == (None, 50, LOSSLESS)
    states = {process.spec.name: process.state for process in supervisor._processes}
    assert states["capture/yard"] == states["annotator/yard"] == "waiting"


@pytest.mark.parametrize(("late", "code"), [(False, EXIT_CONFIG), (True, EXIT_FAILED)])
def test_only_what_never_began_is_refused(supervisor: Supervisor, late: bool, code: int) -> None:
    process = next(p for p in supervisor._processes if p.spec.name == "capture/yard")
    process.state, process.exit_code, process.reason = "failed", EXIT_CONFIG, "no such file"
    supervisor._late |= {process.spec.name} if late else set()
    supervisor._after_failure(process)
    assert supervisor._code == code
