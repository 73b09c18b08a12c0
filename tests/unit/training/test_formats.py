"""A network in every framework's own files: each backend runs its own and gives the same."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="training needs torch (pip install torch)")

from models.training import export, formats, network  # noqa: E402
from pipeline import plugins  # noqa: E402
from pipeline.errors import StartupError  # noqa: E402
from pipeline.inference.backend import is_available  # noqa: E402
from pipeline.inference.detector import build_backend  # noqa: E402
from pipeline.inference.model_card import read_card  # noqa: E402
from pipeline.inference.verify import compare  # noqa: E402

missing = [kind for kind in formats.ROLES if not is_available(kind)]
pytestmark = pytest.mark.skipif(bool(missing), reason=f"needs {missing}: pip install 'facemask-pipeline[all]'")

SMALL = network.Architecture(
    width=96, height=64, stem=8, widths=(8, 16, 16, 16), depths=(1, 2, 1, 1), pyramid=16, anchors=(12.0, 32.0, 64.0)
)
CARD = {
    "name": "facemask", "summary": "small", "licence": "MIT", "source": "made by the tests", "training_data": "none",
    "measured": "nothing", "intended_use": "tests", "weaknesses": ["finds nothing"],
    "input": {"width": SMALL.width, "height": SMALL.height},
    "head": {
        "kind": "ssd", "variances": list(network.VARIANCES),
        "maps": [
            {"rows": rows, "columns": columns, "sizes": [side / SMALL.height]}
            for (columns, rows), side in zip(SMALL.maps, SMALL.anchors, strict=True)
        ],
    },
    "classes": {0: "mask", 1: "no_mask"},
}  # fmt: skip


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder; its offsets are as large as a trained network's."""
    folder = tmp_path_factory.mktemp("facemask")
    torch.manual_seed(2)
    net = network.FaceMaskNet(SMALL).eval()
    for head in net.heads:
        assert isinstance(head, network.Head)
        torch.nn.init.normal_(head.boxes.weight, std=0.1)
        torch.nn.init.normal_(head.scores.weight, std=0.3)
    card = yaml.safe_dump(CARD, sort_keys=False)
    (folder / "model.yaml").write_text(f"# kept as it is\n{card}\nruntimes:\n  an_older: {{}}\n")
    export.write_onnx(net, folder / "facemask.onnx")
    formats.note_in_card(folder / "model.yaml", formats.write_formats(folder / "facemask.onnx"))
    return folder


def test_every_backend_has_its_files_and_they_agree(exported: Path) -> None:
    path = exported / "model.yaml"
    assert path.read_text().startswith("# kept as it is\n")
    card = read_card(path)
    assert {*card.runtimes} == {*plugins.kinds("backend")}
    assert {*card.file_names()} == {file.name for file in exported.iterdir()} - {"model.yaml"}
    found = {parity.runtime: parity for parity in compare(card, path)}
    assert {*found} == {*card.runtimes}
    assert all(parity.agrees for parity in found.values()), found


def test_the_same_network_gives_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "facemask.onnx").write_bytes((exported / "facemask.onnx").read_bytes())
    for role, file in formats.write_formats(tmp_path / "facemask.onnx").items():
        if role != "keras":  # it holds the time of day
            assert file.read_bytes() == (exported / file.name).read_bytes(), role


def refusal(exported: Path, folder: Path, role: str, content: bytes, kind: str) -> str:
    """What a backend says to the exported files with another content of one role."""
    for file in exported.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    files = {r: folder / w.file for c in read_card(folder / "model.yaml").runtimes.values() for r, w in c.files.items()}
    files[role].write_bytes(content)
    formats.note_in_card(folder / "model.yaml", files)
    with pytest.raises(StartupError) as refused:
        build_backend(read_card(folder / "model.yaml"), folder / "model.yaml", kind)
    return str(refused.value)


def rewritten(keras_file: bytes, old: str, new: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(keras_file)) as source, zipfile.ZipFile(made, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            target.writestr(name, content.replace(old.encode(), new.encode()) if name == "config.json" else content)
    return made.getvalue()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"class_name": "Reshape"', '"class_name": "Lambda"', "keras.layers Lambda"),
        ('"module": "keras.layers", "class_name": "Add"', '"module": "os", "class_name": "system"', "os system"),
        ('"class_name": "Add", ', '"class_name": "Add", "registered_name": "Own>Add", "x": [', "not such a file"),
    ],
)
def test_a_keras_file_that_names_anything_else_is_refused(
    exported: Path, tmp_path: Path, old: str, new: str, named: str
) -> None:
    content = rewritten((exported / "facemask.keras").read_bytes(), old, new)
    assert named in refusal(exported, tmp_path, "keras", content, "keras")


def test_a_symbol_that_does_anything_else_is_refused(exported: Path, tmp_path: Path) -> None:
    symbol = json.loads((exported / "facemask-symbol.json").read_text())
    symbol["nodes"][-1]["op"] = "Custom"
    assert "Custom" in refusal(exported, tmp_path, "symbol", json.dumps(symbol).encode(), "mxnet")


def test_arrays_of_another_network_are_refused(exported: Path, tmp_path: Path) -> None:
    content = (exported / "facemask-0000.params").read_bytes().replace(b"stem_weight", b"stamm_weigh")
    assert "arguments" in refusal(exported, tmp_path, "params", content, "mxnet")


def test_a_state_dict_carries_the_weights_by_the_names_in_the_network(exported: Path) -> None:
    state = torch.load(exported / "facemask.pth", weights_only=True)
    assert state["stem.weight"].shape == (8, 3, 3, 3)
    assert {"stages.1.1.depthwise.weight", "heads.2.scores.bias", "laterals.0.bias"} <= {*state}
    assert all(np.isfinite(values).all() for values in state.values())
