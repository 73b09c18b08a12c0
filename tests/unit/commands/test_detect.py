"""``detect`` on real pictures: the documented JSON, annotated copies, one clear line for what is no picture."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.cli import main
from tests.shared_data import shared


def run(*arguments: object, models_dir: Path) -> int:
    return main(["detect", *map(str, arguments), "--models-dir", str(models_dir)])


def test_the_json_form(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = shared("images/aizoo_demo2.jpg")
    assert run(picture, "--json", "--annotated", tmp_path / "out", models_dir=models_dir) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["path"], found["width"], found["height"]) == (str(picture), 464, 330)
    (face,) = found["faces"]
    assert face["label"] == "mask"
    assert face["confidence"] == pytest.approx(0.9, abs=0.05)
    assert np.allclose(face["xyxy"], [222, 49, 327, 198], atol=3)


def test_the_annotated_picture_differs_only_around_the_box(models_dir: Path, tmp_path: Path) -> None:
    picture = shared("images/aizoo_demo2.jpg")
    png = tmp_path / "demo.png"
    before = cv2.imread(str(picture))
    assert before is not None
    cv2.imwrite(str(png), before)
    assert run(png, "--annotated", tmp_path / "out", models_dir=models_dir) == 0
    after = cv2.imread(str(tmp_path / "out" / "demo.annotated.png"))
    assert after is not None
    changed = np.argwhere((before != after).any(axis=2))
    assert len(changed) > 200
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert 200 < left < 225
    assert 20 < top < 50
    assert 325 < right < 360
    assert 195 < bottom < 215
    blue, green, red = after[100, left].tolist()
    assert green > 150 > max(blue, red), "a mask is framed in green"


def test_what_is_no_picture_is_named_and_the_others_are_looked_at(
    models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    picture = shared("images/aizoo_demo2.jpg")
    assert run(tmp_path / "gone.jpg", tmp_path / "text.jpg", picture, "--json", models_dir=models_dir) == 2
    out, err = capsys.readouterr()
    assert [found["path"] for found in json.loads(out)] == [str(picture)]
    assert err.splitlines() == [
        f"error: {tmp_path}/gone.jpg: no such file or directory",
        f"error: {tmp_path}/text.jpg: is not a picture that can be read (10 bytes)",
    ]


def test_a_folder_stands_for_its_pictures(models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("b.png", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(shared("images/aizoo_demo2.jpg").read_bytes())
    assert run(tmp_path, models_dir=models_dir) == 0
    assert [Path(line.split(": ")[0]).name for line in capsys.readouterr().out.splitlines()] == ["a.jpg", "b.png"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model", "nonesuch"], "error: 'nonesuch' is not a model here; there are: "),
        (["--backend", "abacus"], "error: 'abacus' is not a backend here; there are: "),
    ],
)
def test_a_wrong_choice_is_one_line(
    models_dir: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert run("a.jpg", *arguments, models_dir=models_dir) == 2
    assert capsys.readouterr().err.startswith(line)


def test_a_threshold_out_of_range_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["detect", "a.jpg", "--confidence-min", "1.5"])
    assert caught.value.code == 2
    assert "'1.5' is not a number from 0 to 1" in capsys.readouterr().err


def test_missing_weights_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert main(["detect", "a.jpg", "--model", "aizoo-260"]) == 3
    err = capsys.readouterr().err
    assert "models fetch aizoo-260" in err
    assert "models import aizoo-260 --from" in err
    assert len(err.splitlines()) == 1
