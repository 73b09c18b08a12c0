from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import resources
from pipeline.errors import ConfigError, StartupError
from pipeline.inference.detector import build_detector
from pipeline.inference.model_card import read_card
from tests.unit.inference.tiny_model import card_content, make_onnx, write_model


@pytest.fixture(autouse=True)
def _no_weights_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(resources.MODELS_ENV, raising=False)


@pytest.mark.parametrize("name", sorted(card.parent.name for card in resources.data_dir("models").glob("*/model.yaml")))
def test_every_card_in_the_repository_is_right(name: str) -> None:
    card = read_card(resources.card_path(name))
    assert card.name == name
    assert card.labels == ("mask", "no_mask")


def test_aizoo_anchors_are_as_many_as_its_outputs() -> None:
    counts = {name: read_card(resources.card_path(name)).head.anchor_count() for name in ("aizoo-260", "aizoo-360")}
    assert counts == {"aizoo-260": 5972, "aizoo-360": 11000}


def _maps(**keys: Any) -> dict[str, Any]:
    return {"kind": "ssd", "variances": [0.1, 0.1, 0.2, 0.2], "maps": [{"rows": 3, "columns": 4, **keys}]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input": {"width": 4, "height": 48}}, "input.width: 4: "),
        ({"input": {"width": 64, "height": 48, "std": [1, 0, 1]}}, "input.std: [1, 0, 1]: "),
        ({"input": {"width": 64, "height": 48, "colour": "bgr"}}, "input.colour: 'bgr': "),
        ({"classes": {0: "mask", 2: "no_mask"}}, "classes: {0: 'mask', 2: 'no_mask'}: "),
        ({"classes": {0: "mask", 1: "mask"}}, "labels must differ"),
        ({"head": _maps()}, "give either sizes"),
        ({"head": _maps(sizes=[0.1], boxes=[[0.1, 0.1]])}, "give either sizes"),
        ({"head": _maps(sizes=[float("nan")])}, "head.maps.0.sizes.0: nan: "),
        ({"head": _maps(sizes=[0.1]) | {"order": "column-row"}}, "head.order: 'column-row': "),
        ({"head": _maps(sizes=[0.1]) | {"maps": [{"rows": 2048, "columns": 2048, "sizes": [1]}]}}, "too many"),
        ({"weights": 1}, "weights: 1: Extra inputs"),
        ({"name": "../../etc"}, "name: '../../etc': "),
    ],
)
def test_a_wrong_card_is_one_line_with_file_field_and_value(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    card = write_model(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        read_card(card)
    assert str(caught.value).startswith(str(card))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["../x.onnx", "/etc/passwd", "", ".hidden"])
def test_a_card_names_files_in_its_own_folders_only(tmp_path: Path, file: str) -> None:
    content = card_content(make_onnx())
    content["runtimes"]["onnxruntime"]["files"]["onnx"]["file"] = file
    card = tmp_path / "model.yaml"
    card.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=r"runtimes\.onnxruntime\.files\.onnx\.file"):
        read_card(card)


@pytest.mark.parametrize("text", ["", "- a list", "a: [", "\x00", "!!python/object/apply:os.system ['true']"])
def test_what_is_no_card_is_refused(tmp_path: Path, text: str) -> None:
    card = tmp_path / "model.yaml"
    card.write_text(text)
    with pytest.raises(ConfigError, match=r"model\.yaml: not "):
        read_card(card)


def test_a_card_that_is_not_there_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_card(tmp_path / "model.yaml")
    (tmp_path / "model.yaml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="larger than"):
        read_card(tmp_path / "model.yaml")


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"head": _maps(sizes=[0.3])}, "head.maps: the card says 12 anchors, the weights say 36"),
        ({"classes": {0: "a", 1: "b", 2: "c"}}, "classes: the card says 3, the weights say 2 columns of scores"),
        ({"classes": {0: "a"}}, "classes: the card says 1, the weights say 2 columns of scores"),
    ],
)
def test_a_card_that_contradicts_its_weights(tmp_path: Path, backend: str, changes: dict[str, Any], said: str) -> None:
    card = write_model(tmp_path, **changes)
    with pytest.raises(ConfigError) as caught:
        build_detector(str(card), backend)
    assert str(caught.value) == f"{card}: {said}" or str(caught.value).startswith(f"{card}: {said}")


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
def test_a_card_with_another_input_size_than_its_weights(tmp_path: Path, backend: str) -> None:
    card = write_model(tmp_path, input={"width": 128, "height": 96})
    with pytest.raises(ConfigError, match=r"the card says .*, the weights say "):
        build_detector(str(card), backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
@pytest.mark.parametrize("tensor", ["boxes", "scores"])
def test_a_card_with_another_tensor_name(tmp_path: Path, backend: str, tensor: str) -> None:
    content = card_content(make_onnx())
    content["runtimes"][backend]["tensors"][tensor] = "nowhere"
    card = write_model(tmp_path, runtimes=content["runtimes"])
    with pytest.raises(ConfigError, match=rf"tensors\.{tensor}: the card says 'nowhere', the weights say "):
        build_detector(str(card), backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
def test_a_tampered_file_is_refused_before_a_runtime_sees_it(tmp_path: Path, backend: str) -> None:
    card = write_model(tmp_path)
    weights = tmp_path / "tiny.onnx"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(ConfigError, match=rf"{weights}: sha256 is [0-9a-f]{{64}}, but {card} says [0-9a-f]{{64}}"):
        build_detector(str(card), backend)


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
def test_a_file_that_a_runtime_cannot_read_is_one_line(tmp_path: Path, backend: str) -> None:
    card = write_model(tmp_path, b"no network at all")
    with pytest.raises(StartupError, match=rf"tiny\.onnx: model file unreadable by {backend}: .+") as caught:
        build_detector(str(card), backend)
    assert "\n" not in str(caught.value)


def test_weights_that_are_not_here_come_with_the_commands_that_get_them() -> None:
    with pytest.raises(StartupError) as caught:
        build_detector("aizoo-260")
    said = str(caught.value)
    assert "aizoo-260.onnx is not on this machine" in said
    assert "run_pipeline.py models fetch aizoo-260" in said
    assert "run_pipeline.py models import aizoo-260 --from DIR" in said
    assert caught.value.exit_code == 3


def test_a_runtime_that_the_card_does_not_have(tmp_path: Path) -> None:
    card = write_model(tmp_path)
    with pytest.raises(ConfigError, match=r"no files for 'onnxruntime-int8'; there are: onnxruntime, opencv_dnn"):
        build_detector(str(card), "onnxruntime", {"precision": "int8"})
    with pytest.raises(ConfigError, match=r"'torch3' is not a backend here; there are: .*onnxruntime"):
        build_detector(str(card), "torch3")


@pytest.mark.parametrize("options", [{"threads": 0}, {"device": "abacus"}, {"speed": "high"}])
def test_a_wrong_backend_option_names_itself(tmp_path: Path, options: dict[str, Any]) -> None:
    card = write_model(tmp_path)
    [(name, _)] = options.items()
    with pytest.raises(ConfigError, match=f"backend onnxruntime: {name}: "):
        build_detector(str(card), "onnxruntime", options)
