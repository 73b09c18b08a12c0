"""A network small enough for any test, with its card: one convolution, one feature map."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import helper, numpy_helper

WIDTH, HEIGHT, STRIDE = 64, 48, 16
ROWS, COLUMNS, ANCHORS, CLASSES = HEIGHT // STRIDE, WIDTH // STRIDE, 3, 2

_CARD: dict[str, Any] = {
    "name": "tiny",
    "summary": "one convolution",
    "licence": "MIT",
    "source": "made by the tests",
    "training_data": "none",
    "measured": "nothing",
    "intended_use": "tests",
    "weaknesses": ["finds nothing"],
    "input": {"width": WIDTH, "height": HEIGHT},
    "head": {
        "kind": "ssd",
        "variances": [0.1, 0.1, 0.2, 0.2],
        "maps": [{"rows": ROWS, "columns": COLUMNS, "sizes": [0.3, 0.5], "ratios": [1, 0.5]}],
    },
    "classes": {0: "mask", 1: "no_mask"},
}


def make_onnx(seed: int = 0, *, bias: float = 0.0) -> bytes:
    """Scores are a sigmoid of the picture and ``bias``; the batch is dynamic."""
    rng = np.random.default_rng(seed)
    nodes: list[Any] = []
    weights: list[Any] = []
    for name, columns in (("boxes", 4), ("scores", CLASSES)):
        weight = rng.normal(0, 0.02, (ANCHORS * columns, 3, STRIDE, STRIDE)).astype(np.float32)
        shift = np.full(ANCHORS * columns, bias if name == "scores" else 0, np.float32)
        shape = np.array([0, -1, columns], np.int64)
        for key, value in (("w", weight), ("b", shift), ("s", shape)):
            weights.append(numpy_helper.from_array(value, f"{name}_{key}"))
        inputs = ["image", f"{name}_w", f"{name}_b"]
        nodes.append(
            helper.make_node("Conv", inputs, [f"{name}_conv"], kernel_shape=[STRIDE] * 2, strides=[STRIDE] * 2)
        )
        nodes.append(helper.make_node("Transpose", [f"{name}_conv"], [f"{name}_t"], perm=[0, 2, 3, 1]))
        flat = f"{name}_flat" if name == "scores" else name
        nodes.append(helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [flat], name=flat))
    nodes.append(helper.make_node("Sigmoid", ["scores_flat"], ["scores"], name="scores"))
    anchors, float32 = ROWS * COLUMNS * ANCHORS, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", float32, ["n", 3, HEIGHT, WIDTH])],
        [
            helper.make_tensor_value_info("boxes", float32, ["n", anchors, 4]),
            helper.make_tensor_value_info("scores", float32, ["n", anchors, CLASSES]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def card_content(content: bytes, **changes: Any) -> dict[str, Any]:
    """The card's keys for ``content``; ``changes`` replace whole sections."""
    card = deepcopy(_CARD)
    weights = {"file": "tiny.onnx", "sha256": hashlib.sha256(content).hexdigest()}
    runtime = {"files": {"onnx": weights}, "tensors": {"input": "image", "boxes": "boxes", "scores": "scores"}}
    card["runtimes"] = {"onnxruntime": runtime, "opencv_dnn": deepcopy(runtime)}
    return card | changes


def write_model(folder: Path, content: bytes | None = None, **changes: Any) -> Path:
    """Writes weights and card; returns the card's path."""
    content = make_onnx() if content is None else content
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.onnx").write_bytes(content)
    card = folder / "model.yaml"
    card.write_text(yaml.safe_dump(card_content(content, **changes), sort_keys=False), "utf-8")
    return card
