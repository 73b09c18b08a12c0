"""``models quantize`` on a small network, and what it refuses; on the real one only whether it stays as good."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline import resources
from pipeline.cli import main
from pipeline.commands import quantize as command
from pipeline.evaluation import quantize
from tests.shared_data import shared
from tests.unit.evaluation import labelled
from tests.unit.inference.tiny_model import write_model


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(resources.MODELS_ENV, raising=False)
    monkeypatch.setattr(command, "LOSS_MAX", 1.0)
    model = write_model(tmp_path / "tiny").parent
    for n in (3, 4):
        labelled.write_picture(tmp_path / "calibration" / f"{n}.png", n)
    labelled.write_coco(tmp_path / "set")
    return ["models", "quantize", str(model), "--calibrate", str(tmp_path / "calibration")]


def test_a_model_of_its_own_is_written(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--evaluate", str(tmp_path / "set"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["model"] == "tiny-int8"
    assert made["calibration_pictures"] == 2
    assert [row["dataset"] for row in made["evaluated"]] == ["set"]
    assert {"cpu_ratio", "size_ratio", "quantised"} <= made.keys()
    folder = tmp_path / "cache" / "facemask-pipeline" / "models" / "tiny-int8"
    assert Path(made["card"]) == folder / "model.yaml"
    assert sorted(path.name for path in folder.iterdir()) == ["model.yaml", "tiny-int8.onnx"]
    assert main(["models", "verify", "tiny-int8"]) == 0
    assert main(["detect", "--model", "tiny-int8", str(tmp_path / "set" / "images")]) == 0


def test_one_set_may_serve_for_both_with_its_pictures_apart(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ = tmp_path / "set"
    labelled.write_picture(set_ / "images" / "0.png", 7)  # unlabelled, and first by name
    assert main([*arguments[:3], "--calibrate", str(set_)]) == 0
    assert "use it with: --model tiny-int8" in capsys.readouterr().out


@pytest.mark.parametrize("set_name", ["nowhere", "empty"])
def test_refusals(set_name: str, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([*arguments[:3], "--calibrate", str(tmp_path / set_name)]) == 2
    assert f"{tmp_path / set_name}" in capsys.readouterr().err


def test_evaluating_on_a_calibration_picture_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(tmp_path / "set" / "images" / "1.png", tmp_path / "calibration" / "renamed.png")
    assert main([*arguments, "--evaluate", str(tmp_path / "set")]) == 2
    assert "1.png is the calibration picture" in capsys.readouterr().err


def test_what_loses_too_much_is_not_kept(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "LOSS_MAX", -2.0)
    monkeypatch.setattr(quantize, "RECIPES", quantize.RECIPES[:1])
    assert main([*arguments, "--evaluate", str(tmp_path / "set")]) == 1
    assert "not kept" in capsys.readouterr().err
    assert not (tmp_path / "cache" / "facemask-pipeline" / "models").exists()


def test_the_real_network_stays_as_good(
    models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Few pictures of two sources; the whole sets are in ``tests/benchmarks/evaluation``."""
    shutil.copytree(models_dir / "aizoo-260", tmp_path / "models" / "aizoo-260")
    monkeypatch.setattr(command, "PICTURES", 16)
    whole = json.loads((shared("eval/aizoo_val") / "annotations.json").read_text())
    few = {image["id"] for image in whole["images"][-40:]}
    part = {
        "categories": whole["categories"],
        "images": [image for image in whole["images"] if image["id"] in few],
        "annotations": [face for face in whole["annotations"] if face["image_id"] in few],
    }
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "annotations.json").write_text(json.dumps(part))
    (tmp_path / "val" / "images").symlink_to(shared("eval/aizoo_val/images"))
    arguments = ["models", "quantize", "aizoo-260", "--calibrate", str(shared("train/train_kaggle")), "--json"]
    assert main([*arguments, "--evaluate", str(tmp_path / "val"), "--models-dir", str(tmp_path / "models")]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["evaluated"][0]["loss"] <= 0.01
    assert made["cpu_ratio"] < 0.9
    assert made["size_ratio"] < 0.3
