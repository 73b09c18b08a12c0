"""``run``: the site that a source and its companions stand for, and what is said when there is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main


def test_the_credentials_of_a_source_are_told_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "rtsp://me:hunter2@camera"]) == 2
    assert "hunter2" not in "".join(capsys.readouterr())


def test_the_input_cannot_be_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"precious")
    assert (
        main(["run", "--source", str(film), "--record", f"{tmp_path}/../{tmp_path.name}/film.mp4", "--overwrite"]) == 2
    )
    assert "which sources.film reads" in capsys.readouterr().err
    assert film.read_bytes() == b"precious"
