"""What other shells are told of a run."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from pipeline import config
from pipeline.notice import Notice
from tests.unit.test_reload_plan import HALL


class FullDirectory:
    """A run directory in a /dev/shm that is full until it is not."""

    full = True
    described: dict[str, Any] | None = None

    def __init__(self, path: Path) -> None:
        self.path = path

    def describe(self, description: dict[str, Any]) -> None:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.described = description


def test_a_full_shared_memory_is_told_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = FullDirectory(tmp_path)
    notice = Notice(config.check(HALL, "hall.yaml"), directory, "run")  # type: ignore[arg-type]
    for _ in range(3):
        notice.update([])
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    directory.full = False
    notice.update([])
    assert directory.described is not None
    assert (directory.described["name"], directory.described["run_id"]) == ("hall", "run")


def test_it_is_written_only_where_it_has_changed(tmp_path: Path) -> None:
    directory = FullDirectory(tmp_path)
    directory.full = False
    notice = Notice(config.check(HALL, "hall.yaml"), directory, "run")  # type: ignore[arg-type]
    notice.update([])
    directory.described = None
    notice.update([])
    assert directory.described is None
