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
from pipeline.report import Gauges
from pipeline.specs import Site
from pipeline.supervisor import Supervisor
from tests.unit.test_reload_plan import HALL


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
