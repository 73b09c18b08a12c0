"""``run``: the site that a source and its companions stand for, and what is said when there is no run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.commands import run
from pipeline.config import Site
from pipeline.report import Report
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory


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


def test_a_number_that_another_run_takes_at_the_same_time_is_passed_over(
    run_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []

    class Quick:
        def __init__(self, site: Site, **_: object) -> None:
            self._site = site

        def run(self) -> Report:
            with RunDirectory(self._site.name):
                started.append(self._site.name)
            return Report(sources={}, missing={}, started_ns=0, elapsed_s=0, restarts={}, code=0, reason=None)

    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))
    monkeypatch.setattr(run, "Supervisor", Quick)
    with RunDirectory("film-1"), RunDirectory("film-2") as second:  # the first has not told anybody yet
        second.describe({})
        assert main(["run", "--source", "film.mp4"]) == 0
    assert started == ["film-3"]


def test_a_site_has_one_name_and_is_refused_when_that_is_running(
    tmp_path: Path, run_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> Report:
        with RunDirectory("gate"):
            raise AssertionError("two of one name")

    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))
    monkeypatch.setattr("pipeline.supervisor.Supervisor.run", refuse)
    (tmp_path / "site.yaml").write_text(
        "{name: gate, sources: {gate: {kind: file, path: a}}, detectors: {mask: {}}, "
        "pipelines: {all: {sources: [gate], detector: mask}}}"
    )
    with RunDirectory("gate"):
        assert main(["run", str(tmp_path / "site.yaml")]) == 3
    assert "a site named 'gate' is running already" in capsys.readouterr().err
