"""Installed as a wheel, the program works in an empty directory: cards, clip and configuration are inside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.shared_data import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel and nothing of the checkout."""
    wheels, target = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(target)
    return target


def run(installed: Path, cwd: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CACHE_HOME": str(installed / "cache"), **variables}
    [information] = installed.glob("*.dist-info")
    (begin,) = metadata.Distribution.at(information).entry_points.select(name="run-pipeline")
    script = f"import sys; from {begin.module} import {begin.attr}; sys.exit({begin.attr}())"  # as pip writes it
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=100)


def test_the_demo_needs_nothing_else(installed: Path, tmp_path: Path, run_base: Path) -> None:
    done = run(installed, tmp_path, FACEMASK_RUN_DIR=str(run_base))
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"demo-annotated.mp4", "demo-events.jsonl"}
    assert "300 decoded, 300 detected, 300 written" in done.stdout
    events = [json.loads(line) for line in (tmp_path / "demo-events.jsonl").read_text().splitlines()]
    begun = [event["id"] for event in events if event["phase"] == "new"]
    assert len(begun) >= 2, "both people are seen without a mask"
    assert sorted(begun) == sorted(event["id"] for event in events if event["phase"] == "end")


def test_without_weights_it_says_how_to_get_them(installed: Path, tmp_path: Path, run_base: Path) -> None:
    clip = ROOT / "config" / "demo" / "demo.mp4"
    arguments = (
        "run",
        "--source",
        str(clip),
        "--record",
        "out.mp4",
        "--events",
        "events.jsonl",
        "--model",
        "aizoo-260",
    )
    done = run(installed, tmp_path, *arguments, FACEMASK_MODELS=str(tmp_path), FACEMASK_RUN_DIR=str(run_base))
    assert done.returncode == 3
    assert "models fetch aizoo-260" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_cards_come_along_and_the_training_does_not(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "models", "list", "--json")
    assert done.returncode == 0, done.stderr
    assert {model["name"] for model in json.loads(done.stdout)} >= {"aizoo-260", "aizoo-360", "facemask"}
    assert not (installed / "pipeline" / "data" / "models" / "training").exists()
