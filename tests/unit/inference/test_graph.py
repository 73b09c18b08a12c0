"""Networks of our own: one ONNX file, and every runtime gives the same."""

from __future__ import annotations

import hashlib
import io
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline import plugins
from pipeline.errors import StartupError
from pipeline.inference import graph as g
from pipeline.inference.backend import is_available
from pipeline.inference.detector import build_backend
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import read_card
from tests.unit.inference.tiny_model import card_content, make_onnx

WIDTH, HEIGHT = 96, 64
TENSORS = {"input": "image", "boxes": "boxes", "scores": "scores"}


class Network:
    """ONNX in the making, of the steps that detectors are made of."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}

    def node(self, kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def conv(
        self, x: str, name: str, channels: tuple[int, int], *, size: int = 3, stride: int = 1, groups: int = 1
    ) -> str:
        made, taken = channels
        deviation = 1 / (size * (taken / groups) ** 0.5)
        self.arrays[f"{name}.weight"] = self._rng.normal(0, deviation, (made, taken // groups, size, size))
        self.arrays[f"{name}.bias"] = self._rng.normal(0, 0.1, made)
        inputs = [x, f"{name}.weight", f"{name}.bias"]
        geometry = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [size // 2] * 4, "group": groups}
        return self.node("Conv", inputs, name, **geometry)

    def rows(self, x: str, name: str, columns: int) -> str:
        self.arrays[f"{name}_shape"] = np.array([0, -1, columns])
        transposed = self.node("Transpose", [x], f"{name}_t", perm=[0, 2, 3, 1])
        return self.node("Reshape", [transposed, f"{name}_shape"], name)

    def serialize(self) -> bytes:
        def tensor(name: str, *shape: Any) -> Any:
            return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))

        weights = [
            numpy_helper.from_array(v.astype(np.int64 if v.dtype.kind == "i" else np.float32), name)
            for name, v in self.arrays.items()
        ]
        outputs = [tensor("boxes", "n", "a", 4), tensor("scores", "n", "a", 2)]
        made = helper.make_graph(self.nodes, "own", [tensor("image", "n", 3, HEIGHT, WIDTH)], outputs, weights)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def pyramid() -> bytes:
    """Every step once: strides, depthwise convolutions, a shortcut, a way up, a pooling over the edge, two heads."""
    w = Network()
    stem = w.node("Relu", [w.conv("image", "stem", (16, 3), stride=2)], "stem_relu")
    deep = w.conv(w.conv(stem, "depthwise", (16, 16), groups=16), "pointwise", (16, 16), size=1)
    fine = w.node("Relu", [w.node("Add", [deep, stem], "shortcut")], "fine")
    coarse = w.conv(w.conv(fine, "down", (16, 16), size=5, stride=2, groups=16), "coarse", (24, 16), size=1)
    w.arrays["twice"] = np.array([1, 1, 2, 2], np.float32)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    up = w.node("Resize", [coarse, "", "twice"], "up", **nearest)
    lateral = w.conv(fine, "lateral", (24, 16), size=1)
    joined = w.node("Concat", [w.node("Add", [up, lateral], "merged"), lateral], "joined", axis=1)
    small = w.conv(joined, "odd", (24, 48), size=5, stride=7)  # 5 x 7 cells
    pooled = w.node("MaxPool", [small], "pooled", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    for name, columns in (("boxes", 4), ("logits", 2)):
        parts = [
            w.rows(w.conv(x, f"{name}_{i}", (3 * columns, 24)), f"{name}_{i}_rows", columns)
            for i, x in enumerate((coarse, pooled))
        ]
        w.node("Concat", parts, name, axis=1)
    w.node("Sigmoid", ["logits"], "scores")
    return w.serialize()


def write(folder: Path, content: bytes, runtimes: dict[str, Any]) -> Path:
    keys = card_content(content, runtimes=runtimes, input={"width": WIDTH, "height": HEIGHT})
    maps = [{"rows": 16, "columns": 24}, {"rows": 3, "columns": 4}]
    keys["head"]["maps"] = [{**m, "sizes": [0.3, 0.5], "ratios": [1, 0.5]} for m in maps]
    (folder / "tiny.onnx").write_bytes(content)
    (folder / "model.yaml").write_text(yaml.safe_dump(keys))
    return folder / "model.yaml"


def entry(file: Path) -> dict[str, str]:
    return {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def run(card_path: Path, kind: str) -> dict[str, NDArray[np.float32]]:
    batch = np.random.default_rng(1).random((2, 3, HEIGHT, WIDTH), np.float32)
    backend = build_backend(read_card(card_path), card_path, kind)
    made = {name: np.array(values) for name, values in backend.infer(batch).items()}
    backend.close()
    return made


@pytest.mark.parametrize("kind", plugins.kinds("backend"))
def test_every_runtime_is_built_from_the_one_file(kind: str, tmp_path: Path) -> None:
    if not is_available(kind):
        pytest.skip(f"needs {kind}: pip install 'facemask-pipeline[{kind}]'")
    content = pyramid()
    (tmp_path / "tiny.onnx").write_bytes(content)
    runtime = {"files": {"onnx": entry(tmp_path / "tiny.onnx")}, "tensors": TENSORS}
    card = write(tmp_path, content, {"onnxruntime": runtime, kind: deepcopy(runtime)})
    wanted, made = run(card, "onnxruntime"), run(card, kind)
    assert made["boxes"].shape == (2, 3 * (16 * 24 + 3 * 4), 4)
    assert np.abs(made["boxes"] - wanted["boxes"]).max() <= 1e-4
    assert np.abs(made["scores"] - wanted["scores"]).max() <= 1e-5


def test_torch_takes_its_weights_from_a_state_dict(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    content = pyramid()
    arrays = {t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(content).graph.initializer}
    state = {name: torch.tensor(2 * v) for name, v in arrays.items() if name.endswith((".weight", ".bias"))}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    (tmp_path / "state.pth").write_bytes(buffer.getvalue())
    (tmp_path / "tiny.onnx").write_bytes(content)
    files = {"onnx": entry(tmp_path / "tiny.onnx"), "pth": entry(tmp_path / "state.pth")}
    card = write(tmp_path, content, {"torch": {"files": files, "tensors": TENSORS}})
    doubled = g.read_onnx(content).with_weights(lambda conv: (2 * conv.weight, 2 * conv.bias))
    assert doubled.nodes[0].name == "stem"
    other = {"files": {"onnx": files["onnx"]}, "tensors": TENSORS}
    (tmp_path / "plain").mkdir()
    plain = write(tmp_path / "plain", content, {"torch": other})
    assert np.abs(run(card, "torch")["boxes"] - run(plain, "torch")["boxes"]).max() > 0.1


def test_tensorflow_runs_a_saved_model(tmp_path: Path) -> None:
    if not is_available("tensorflow"):
        pytest.skip("needs tensorflow: pip install 'facemask-pipeline[tensorflow]'")
    from pipeline.inference.backends._tf_session import import_tensorflow

    tf = import_tensorflow()
    rows = 3 * (16 * 24 + 3 * 4)

    class Saved(tf.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.shift = tf.Variable(0.25)

        @tf.function(input_signature=[tf.TensorSpec((None, HEIGHT, WIDTH, 3), tf.float32, "image")])  # type: ignore[untyped-decorator]
        def look(self, image: Any) -> Any:
            ones = tf.reshape(tf.tile(image, [1, 1, 1, 2])[:, :33, :, :], (-1, rows * 16))[:, : rows * 4]
            boxes = tf.reshape(ones, (-1, rows, 4)) + self.shift
            return {"boxes": boxes, "scores": tf.sigmoid(boxes[:, :, :2])}

    saved = Saved()
    tf.saved_model.save(saved, str(tmp_path / "saved"), signatures={"serving_default": saved.look})
    files = {}
    for role, name in (
        ("saved_model", "saved_model.pb"),
        ("variables_index", "variables/variables.index"),
        ("variables_data", "variables/variables.data-00000-of-00001"),
    ):
        (tmp_path / f"tiny.{role}").write_bytes((tmp_path / "saved" / name).read_bytes())
        files[role] = entry(tmp_path / f"tiny.{role}")
    card = write(tmp_path, make_onnx(), {"tensorflow": {"files": files, "tensors": TENSORS}})
    made = run(card, "tensorflow")
    assert made["boxes"].shape == (2, rows, 4)
    assert 0.25 <= made["boxes"].min() < 0.3
    (tmp_path / "tiny.saved_model").write_bytes(b"\x00\x01" * 50)
    files["saved_model"] = entry(tmp_path / "tiny.saved_model")
    card = write(tmp_path, make_onnx(), {"tensorflow": {"files": files, "tensors": TENSORS}})
    with pytest.raises(StartupError, match="model file unreadable by tensorflow"):
        run(card, "tensorflow")


def _changed(**attributes: Any) -> bytes:
    model = onnx.load_model_from_string(pyramid())
    for node in model.graph.node:
        for attribute in list(node.attribute):
            if f"{node.name}_{attribute.name}" in attributes:
                node.attribute.remove(attribute)
                node.attribute.append(
                    helper.make_attribute(attribute.name, attributes[f"{node.name}_{attribute.name}"])
                )  # fmt: skip
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"\x08", "not ONNX"),
        (b"", "0 inputs"),
        (_changed(stem_pads=[0, 1, 0, 1]), "same in every direction"),
        (_changed(stem_strides=[99, 99]), "stride 99"),
        (_changed(depthwise_group=5), "5 groups"),
        (_changed(up_mode=b"linear"), "only b'nearest' is known"),
        (_changed(pooled_kernel_shape=[3, 3]), "pools 3 pixels"),
        (_changed(joined_axis=2), "along axis 2"),
        (_changed(boxes_0_rows_t_perm=[0, 1, 2, 3]), "transposes by"),
    ],
)
def test_what_is_not_understood_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        g.read_onnx(content)
