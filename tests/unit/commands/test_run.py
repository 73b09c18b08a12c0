"""``run``: the site that a source and its companions stand for, and what is said when there is no run."""

from __future__ import annotations

import pytest

from pipeline.cli import main


def test_the_credentials_of_a_source_are_told_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "rtsp://me:hunter2@camera"]) == 2
    assert "hunter2" not in "".join(capsys.readouterr())
