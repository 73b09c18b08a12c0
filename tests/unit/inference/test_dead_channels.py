"""Taking out what is always zero changes nothing; what is not always zero stays."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.inference.importing.dead_channels import without_dead_channels

SHAPES = {"a": (6, 3), "b": (5, 6), "c": (2, 5), "d": (2, 6)}
DEAD = [1, 3, 4]


def network(bias: float = -0.5, outputs: tuple[str, ...] = ("c", "d"), between: str = "Relu") -> onnx.ModelProto:
    """a → ReLU → pool → b → ReLU → c, and pool → d; three of a's six filters are zero."""
    rng = np.random.default_rng(0)
    weights = {}
    for name, (out, into) in SHAPES.items():
        weights[f"{name}_w"] = rng.normal(size=(out, into, 3, 3)).astype(np.float32)
        weights[f"{name}_b"] = rng.normal(size=out).astype(np.float32)
    weights["a_w"][DEAD] = 0
    weights["a_b"][DEAD] = bias

    def conv(x: str, name: str) -> Any:
        return helper.make_node("Conv", [x, f"{name}_w", f"{name}_b"], [name], name=name, pads=[1, 1, 1, 1])

    nodes = [
        conv("x", "a"),
        helper.make_node(between, ["a"], ["a_on"]),
        helper.make_node("MaxPool", ["a_on"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        conv("pool", "b"),
        helper.make_node("Relu", ["b"], ["b_on"]),
        conv("b_on", "c"),
        conv("pool", "d"),
    ]
    made = helper.make_graph(
        nodes,
        "n",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model: onnx.ModelProto) -> list[NDArray[Any]]:
    x = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, {"x": x})]


def channels(model: onnx.ModelProto, name: str) -> tuple[int, ...]:
    return next(tuple(t.dims) for t in model.graph.initializer if t.name == f"{name}_w")[:2]


@pytest.mark.parametrize(("multiple", "left"), [(1, 3), (2, 4), (4, 4), (5, 5), (8, 6)])
def test_dead_channels_go_and_the_outputs_stay(multiple: int, left: int) -> None:
    model = network()
    before = run(model)
    assert without_dead_channels(model, multiple) == 6 - left
    assert channels(model, "a") == (left, 3)
    assert channels(model, "b") == (5, left)
    assert channels(model, "d") == (2, left)
    for was, now in zip(before, run(model), strict=True):
        assert np.allclose(was, now, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [network(bias=0.5), network(outputs=("c", "d", "pool")), network(between="Sigmoid")],
    ids=["a bias lets it through", "it is an output", "no ReLU"],
)
def test_what_may_be_seen_stays(model: onnx.ModelProto) -> None:
    before = run(model)
    assert without_dead_channels(model) == 0
    assert all(np.array_equal(was, now) for was, now in zip(before, run(model), strict=True))
