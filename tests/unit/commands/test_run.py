"""``run``: the site that a source and its companions stand for, and what is said when there is no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline import resources
from pipeline.cli import main
from pipeline.commands import run
from pipeline.report import Report
from pipeline.specs import Site
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory


def test_the_credentials_of_a_source_are_told_to_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--source", "rtsp://me:hunter2@camera:99999"]) == 2
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


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "run needs a SITE.yaml, or --source, or --demo"),
        (["nowhere.yaml"], 2, "nowhere.yaml: there is no such file"),
        (["--source", "a.mp4", "--record", "a.avi"], 2, "'a.avi' does not end in .mp4"),
        (["--source", "a.mp4", "--model", "nonesuch"], 2, "'nonesuch' is not a model here"),
        (["--source", "a.mp4", "--model", "aizoo-260"], 3, "models fetch aizoo-260"),
    ],
)
def test_a_run_that_does_not_start_has_a_report_as_well(
    arguments: list[str],
    code: int,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(resources.MODELS_ENV, raising=False)
    assert main(["run", "--json", *arguments]) == code
    out, err = capsys.readouterr()
    [line] = out.splitlines()
    report = json.loads(line)
    assert report["frames"] == {"decoded": 0, "detected": 0, "written": 0, "skipped": {}}
    assert (report["events"], report["fps"], report["sources"]) == (0, None, {})
    assert report["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert report["exit"]["code"] == code
    assert reason in report["exit"]["reason"]
    assert err.splitlines() == [f"error: {report['exit']['reason']}"]
