"""``bench backends`` on a small network: the documented fields, ratios to one runtime, and why others were skipped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.benchmarks import backends
from pipeline.benchmarks.backends import Loaded, Turn
from pipeline.cli import main
from pipeline.errors import ConfigError
from tests.unit.inference.tiny_model import write_model

FIELDS = {
    "backend", "cpu_ms", "wall_ms", "cpu_ratio", "wall_ratio", "load_s", "first_ms", "resident_mb", "resident_added_mb",
}  # fmt: skip


def test_two_runtimes_and_one_that_the_model_has_no_files_for(tmp_path: Path) -> None:
    model = str(write_model(tmp_path / "tiny").parent)
    kinds = ["onnxruntime", "opencv_dnn", "nope"]
    told: list[str] = []
    figures = backends.measure(model, kinds, rounds=2, pictures=3, tell=told.append)
    rows = {row["backend"]: row for row in figures["backends"]}
    assert rows.keys() == {"onnxruntime", "opencv_dnn"}
    assert all(set(row) == FIELDS for row in rows.values())
    assert rows["onnxruntime"]["cpu_ratio"] == 1
    assert all(row["cpu_ms"] > 0 and row["load_s"] > 0 and row["resident_mb"] > 10 for row in rows.values())
    [skipped] = figures["skipped"]
    assert skipped["backend"] == "nope"
    assert "is not a backend here" in skipped["reason"]
    assert told == [*(f"{kind}: loading" for kind in kinds), "turn 1 of 2", "turn 2 of 2"]


def test_ratios_are_of_the_same_turn() -> None:
    loaded = Loaded(1, 2, 3, 4)
    mine, its = (
        backends._Runtime(kind, None, loaded, [Turn(cpu, 2 * cpu) for cpu in cpus])  # type: ignore[arg-type]
        for kind, cpus in (("a", [20, 60, 30]), ("onnxruntime", [10, 20, 15]))
    )
    row = backends._row(mine, its)
    assert (row["cpu_ratio"], row["wall_ratio"], row["cpu_ms"]) == (2, 2, 30)
    assert backends._row(mine, None)["cpu_ratio"] is None


def test_a_process_that_dies_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = str(write_model(tmp_path / "tiny").parent)
    monkeypatch.setattr(backends, "ANSWER_MAX_S", 0)
    with pytest.raises(ConfigError, match=r"its process ended without an answer \(exit code -9\)"):
        backends.measure(model, ["onnxruntime"], rounds=1, pictures=1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(write_model(tmp_path / "tiny").parent)
    arguments = ["bench", "backends", "--quick", "--model", model, "--backend", "opencv_dnn"]
    assert main([*arguments, "--json"]) == 0
    assert {row["backend"] for row in json.loads(capsys.readouterr().out)["backends"]} == {"onnxruntime", "opencv_dnn"}
    assert main(arguments) == 0
    assert "opencv_dnn" in capsys.readouterr().out
