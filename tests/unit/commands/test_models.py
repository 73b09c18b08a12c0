from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from pipeline import resources
from pipeline.commands import models
from pipeline.errors import ConfigError, StartupError
from tests.shared_data import shared
from tests.unit.inference.tiny_model import make_onnx, write_model


@pytest.fixture(autouse=True)
def _only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own models are a folder of this test, with one model of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(resources.MODELS_ENV, str(tmp_path / "models"))
    write_model(tmp_path / "models" / "tiny")


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    models.add_parser(parser.add_subparsers())
    options = parser.parse_args(["models", *arguments])
    code: int = options.main(options)
    return code


def test_list_tells_where_weights_are_and_how_to_get_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0
    listed = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert {"tiny", "aizoo-260", "aizoo-360"} <= listed.keys()
    assert listed["tiny"]["runtimes"]["onnxruntime"]["here"] is True
    assert listed["tiny"]["get"] is None
    assert listed["aizoo-260"]["runtimes"]["opencv_dnn"]["here"] is False
    assert listed["aizoo-260"]["get"] == "run_pipeline.py models fetch aizoo-260"
    assert listed["aizoo-260"]["licence"].startswith("MIT")
    assert run("list") == 0
    text = capsys.readouterr().out
    assert f"onnxruntime     {tmp_path / 'models' / 'tiny'}" in text
    assert "weights are missing" in text
    assert "run_pipeline.py models fetch aizoo-360" in text


def test_a_wrong_card_does_not_hide_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(tmp_path / "models" / "wrong", classes={})
    assert run("list") == 2
    out, err = capsys.readouterr()
    assert "tiny" in out
    assert err.startswith("error: ")
    assert "classes" in err


def test_verify_compares_runtimes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "tiny", "--json") == 0
    [report] = json.loads(capsys.readouterr().out)
    assert [file["state"] for file in report["files"]] == ["ok"]
    assert [row["runtime"] for row in report["parity"]] == ["onnxruntime", "opencv_dnn"]
    assert all(row["agrees"] for row in report["parity"])
    assert run("verify", "tiny") == 0
    assert "agrees" in capsys.readouterr().out


def test_verify_of_all_leaves_out_what_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify") == 0
    assert "missing" in capsys.readouterr().out


def test_verify_of_a_named_model_wants_it_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "aizoo-260") == 3
    assert "missing" in capsys.readouterr().out


def test_verify_finds_a_tampered_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models" / "tiny" / "tiny.onnx").write_bytes(make_onnx(seed=1))
    assert run("verify") == 2
    assert "sha256 is" in capsys.readouterr().out


def test_verify_finds_runtimes_that_disagree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from tests.unit.inference.tiny_model import card_content

    good, other = make_onnx(), make_onnx(seed=1)
    runtimes = card_content(good)["runtimes"]
    runtimes["opencv_dnn"]["files"]["onnx"] = card_content(other)["runtimes"]["onnxruntime"]["files"]["onnx"] | {
        "file": "other.onnx"
    }
    card = write_model(tmp_path / "models" / "two", good, runtimes=runtimes, name="two")
    (card.parent / "other.onnx").write_bytes(other)
    assert yaml.safe_load(card.read_text())["name"] == "two"
    assert run("verify", "two") == 1
    assert "DISAGREES" in capsys.readouterr().out


def test_import_puts_weights_where_they_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("import", "aizoo-260", "aizoo-360", "--from", str(shared("models/aizoo"))) == 0
    assert str(tmp_path / "models" / "aizoo-260" / "aizoo-260.onnx") in capsys.readouterr().out
    assert run("verify", "aizoo-260", "aizoo-360") == 0
    assert run("import", "aizoo-360", "--from", str(shared("models/aizoo")), "--models-dir", str(tmp_path / "x")) == 0
    assert (tmp_path / "x" / "aizoo-360" / "aizoo-360.onnx").is_file()


def test_errors_are_those_of_the_package(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nope' is not a model here"):
        run("verify", "nope")
    with pytest.raises(ConfigError, match="holds no face_mask_detection"):
        run("import", "aizoo-260", "--from", str(tmp_path))
    with pytest.raises(ConfigError, match="--url"):
        run("fetch", "aizoo-260", "--url", "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="cannot be written"):
        run("fetch", "aizoo-260", "--url", "http://127.0.0.1:9", "--models-dir", str(tmp_path / "file"))


@pytest.mark.parametrize("arguments", [[], ["import", "aizoo-260"], ["fetch"], ["burn"]])
def test_wrong_arguments_show_the_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err
