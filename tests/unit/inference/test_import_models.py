from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from pipeline import resources
from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.inference.importing import aizoo
from pipeline.inference.importing.install import import_model
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard, read_card
from pipeline.inference.weights import file_sha256
from tests.shared_data import shared
from tests.unit.inference.tiny_model import write_model

MODELS = ["aizoo-260", "aizoo-360"]


def of(model: str) -> tuple[ModelCard, Path]:
    path = resources.card_path(model)
    return read_card(path), path


@pytest.mark.parametrize("model", MODELS)
def test_what_is_made_has_the_bytes_that_the_card_names(model: str, tmp_path: Path) -> None:
    card, path = of(model)
    files = import_model(card, path, shared("models/aizoo"), tmp_path / "new" / model)
    assert [file.name for file in files] == card.file_names()
    wanted = {entry.file: entry.sha256 for runtime in card.runtimes.values() for entry in runtime.files.values()}
    assert {file.name: file_sha256(file) for file in files} == wanted
    assert sorted(entry.name for entry in files[0].parent.iterdir()) == sorted(wanted)


def test_a_clone_of_the_original_repository_serves_as_well(tmp_path: Path) -> None:
    card, path = of("aizoo-360")
    (tmp_path / "clone" / "models").mkdir(parents=True)
    for name in ("model360.pth", "model360.json"):
        shutil.copy(shared(f"models/aizoo/{name}"), tmp_path / "clone" / "models")
    assert import_model(card, path, tmp_path / "clone", tmp_path / "out")


def test_a_missing_original_is_named(tmp_path: Path) -> None:
    card, path = of("aizoo-260")
    with pytest.raises(ConfigError, match=r"holds no face_mask_detection\.pth; give a clone of https://github"):
        import_model(card, path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [b"\x00", b""])
def test_an_altered_original_is_refused_and_nothing_is_written(tmp_path: Path, change: bytes) -> None:
    card, path = of("aizoo-360")
    content = shared("models/aizoo/model360.pth").read_bytes()
    (tmp_path / "model360.pth").write_bytes(content[:-1] + change)
    with pytest.raises(ConfigError, match=r"model360\.pth: .*a wrong or altered file"):
        import_model(card, path, tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _altered(tmp_path: Path, content: bytes) -> tuple[ModelCard, Path]:
    """AIZOO's card, but saying that ``content`` is the original."""
    import hashlib

    keys: dict[str, Any] = yaml.safe_load(resources.card_path("aizoo-360").read_text())
    original = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
    keys["original"]["files"]["model360.pth"] = original
    for runtime in keys["runtimes"].values():
        for file in runtime["files"].values():
            if file["file"] == "model360.pth":
                file["sha256"] = original["sha256"]
    card = tmp_path / "model.yaml"
    card.write_text(yaml.safe_dump(keys))
    (tmp_path / "model360.pth").write_bytes(content)
    shutil.copy(shared("models/aizoo/model360.json"), tmp_path)
    return read_card(card), card


@pytest.mark.parametrize("content", [b"cos\nsystem\n(S'true'\ntR.", b"PK\x03\x04", b"\x80\x02}q\x00."])
def test_a_hostile_original_with_a_matching_card_is_one_clear_line(tmp_path: Path, content: bytes) -> None:
    card, path = _altered(tmp_path, content)
    with pytest.raises(ConfigError, match=r"model360\.pth: .+") as caught:
        import_model(card, path, tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    card, path = _altered(tmp_path, shared("models/aizoo/face_mask_detection.pth").read_bytes())
    with pytest.raises(RuntimeFailure, match=r"aizoo-360\.onnx: what was made has sha256 "):
        import_model(card, path, tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv2d_1_bn.running_var", np.full(64, -1, np.float32)),
        ("conv2d_1_bn.running_var", np.full(64, np.nan, np.float32)),
        ("conv2d_1_bn.bias", np.zeros(63, np.float32)),
        ("conv2d_1.weight", np.zeros((64, 31, 3, 3), np.float32)),
        ("conv2d_1.weight", np.zeros(64, np.float32)),
        ("cls_0_conv.bias", np.zeros(3, np.float32)),
    ],
)
def test_weights_that_make_no_network(name: str, value: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> None:
    card, _ = of("aizoo-360")
    pth = shared("models/aizoo/model360.pth").read_bytes()
    state = aizoo.read_network(pth) | {name: value}
    monkeypatch.setattr(aizoo, "read_network", lambda _: state)
    with pytest.raises(RefusedError, match=name.partition("_bn")[0]):
        aizoo.to_onnx(pth, card)
    del state[name]
    with pytest.raises(RefusedError, match=f"holds no weight {name}"):
        aizoo.to_onnx(pth, card)


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    card, path = of("aizoo-360")
    (tmp_path / "out").write_text("a file")
    with pytest.raises(StartupError, match="cannot be written"):
        import_model(card, path, shared("models/aizoo"), tmp_path / "out")


def test_a_model_of_our_own_has_nothing_to_import(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    with pytest.raises(ConfigError, match="nothing to import"):
        import_model(read_card(path), path, tmp_path, tmp_path / "out")
