from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import resources
from pipeline.errors import ConfigError
from pipeline.inference.detector import build_detector
from tests.unit.inference.tiny_model import write_model


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(resources.MODELS_ENV, raising=False)


def test_a_model_is_a_name_a_folder_or_a_card(tmp_path: Path) -> None:
    card = write_model(tmp_path / "mine" / "tiny")
    assert resources.card_path("tiny", tmp_path / "mine") == card
    assert resources.card_path(str(card.parent)) == card
    assert resources.card_path(str(card)) == card
    assert resources.card_path("aizoo-260").parent.parent == resources.data_dir("models")


def test_a_model_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = write_model(tmp_path / "mine" / "tiny")
    monkeypatch.setenv(resources.MODELS_ENV, str(tmp_path / "mine"))
    assert resources.card_path("tiny") == card
    assert "tiny" in resources.model_names()


def test_a_model_that_the_user_made_never_hides_one_that_ships(tmp_path: Path) -> None:
    mine = write_model(resources.user_models_dir() / "tiny")
    write_model(resources.user_models_dir() / "aizoo-260")
    assert resources.card_path("tiny") == mine
    assert "tiny" in resources.model_names()
    assert resources.card_path("aizoo-260").parent.parent == resources.data_dir("models")


@pytest.mark.parametrize("model", ["nope", "no/such/folder", "", "."])
def test_a_model_that_is_not_there(model: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a model here; there are: .*aizoo-260"):
        resources.card_path(model)


def test_weights_are_tried_beside_the_card_then_as_named_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = tmp_path / "cards" / "tiny" / "model.yaml"
    cache = tmp_path / "cache" / "facemask-pipeline" / "models" / "tiny"
    assert resources.weight_dirs(card, "tiny") == [card.parent, cache]
    monkeypatch.setenv(resources.MODELS_ENV, str(tmp_path / "env"))
    assert resources.weight_dirs(card, "tiny") == [card.parent, tmp_path / "env" / "tiny", cache]
    assert resources.install_dir("tiny") == tmp_path / "env" / "tiny"
    given = tmp_path / "given"
    assert resources.weight_dirs(card, "tiny", given) == [card.parent, given / "tiny", cache]
    assert resources.install_dir("tiny", given) == given / "tiny"


def test_a_relative_cache_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert resources.user_models_dir() == Path.home() / ".cache" / "facemask-pipeline" / "models"


def test_a_detector_finds_its_weights_in_each_place(tmp_path: Path) -> None:
    card = write_model(tmp_path / "cards" / "tiny")
    weights = card.parent / "tiny.onnx"
    for folder in (tmp_path / "named" / "tiny", tmp_path / "cache" / "facemask-pipeline" / "models" / "tiny"):
        folder.mkdir(parents=True)
        weights = weights.rename(folder / "tiny.onnx")
        build_detector(str(card), models_dir=tmp_path / "named").close()


def test_packaged_data_of_a_wheel_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pipeline"
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.data_dir("models") == tmp_path / "models"
    (package / "data" / "models").mkdir(parents=True)
    assert resources.data_dir("models") == package / "data" / "models"
