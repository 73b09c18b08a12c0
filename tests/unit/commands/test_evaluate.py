"""``evaluate`` on a small network and small data sets: the documented JSON, the table, and every refusal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main
from tests.shared_data import shared
from tests.unit.evaluation import labelled
from tests.unit.inference.tiny_model import write_model

FIELDS = [
    "model", "backend", "images", "map50", "ap50", "map50_min5", "map40", "map50_95", "at_threshold", "best_threshold",
    "confusion", "by_size", "through_rgb", "plot", "notes", "nms", "resize", "through",
]  # fmt: skip


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    model = write_model(tmp_path / "tiny").parent
    return ["evaluate", "--model", str(model), "--dataset", str(labelled.write_coco(tmp_path / "set"))]


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_json_form(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("pycocotools")
    plot = tmp_path / "pr.png"
    found = run_json([*arguments, "--plot", str(plot), "--nms", "agnostic", "--through", "i420"], capsys)
    assert set(FIELDS) <= found.keys()
    assert (found["model"], found["backend"], found["images"]) == ("tiny", "onnxruntime", 2)
    assert (found["nms"], found["resize"], found["through"]) == ("agnostic", "area", "i420")
    assert found["faces"] == {"mask": 1, "no_mask": 1, "ignored": 1}
    assert set(found["ap50"]) == {"mask", "no_mask"}
    assert 0 <= found["map50"] <= 1
    assert found["map50_95"] is not None
    assert found["through_rgb"]["difference"] == pytest.approx(found["map50"] - found["through_rgb"]["map50"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_table(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--limit", "1"]) == 0
    out, err = capsys.readouterr()
    assert "on 1 pictures" in out.replace("\n", " ")
    assert "IoU 0.5, faces of 5 % and more" in out
    assert "missed" in out
    assert err == ""


def test_without_the_extra_packages_it_says_what_is_missing(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pycocotools.coco", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    found = run_json([*arguments, "--plot", str(tmp_path / "pr.png")], capsys)
    assert found["map50_95"] is None
    assert found["plot"] is None
    assert [note.partition(":")[0] for note in found["notes"]] == ["no map50_95", "no plot"]
    assert all("pip install" in note for note in found["notes"])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dataset", "nowhere"], "nowhere: no such file or folder"),
        (["--plot", "pr.txt"], "--plot pr.txt: it must end in .png, .svg, .pdf"),
        (["--plot", "no/where/pr.png"], "--plot no/where/pr.png: its folder is not there"),
        (["--scores-from", "0.6"], "--scores-from 0.6 is above the threshold in use, 0.5"),
        (["--model", "nope"], "'nope' is not a model here"),
        (["--backend", "nope"], "'nope' is not a backend here"),
    ],
)
def test_refusals_are_one_line(
    more: list[str], message: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_picture_that_is_none(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "set" / "images" / "2.png").write_text("no picture")
    assert main(arguments) == 2
    assert "2.png: is not a picture that can be read" in capsys.readouterr().err


def test_labels_without_a_face(arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    labelled.write_coco(tmp_path / "set", labelled.coco_content() | {"annotations": []})
    assert main(arguments) == 2
    assert "there is no labelled face in its 2 pictures" in capsys.readouterr().err


def test_as_video_the_same_is_found(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--dataset", str(shared("eval/aizoo_val")), "--models-dir", str(models_dir)]
    found = run_json([*arguments, "--limit", "40", "--through", "i420"], capsys)
    assert found["map50"] > 0.6
    assert abs(found["through_rgb"]["difference"]) <= 0.01
    assert found["notes"] == []
