"""AIZOO's networks (github.com/AIZOOTech/FaceMaskDetection, MIT) from their ``.pth`` to ONNX.

Structure as in the project's ``face_mask_detection.json`` (Keras) and ``.prototxt``; the 260 and the 360 network
differ only in their weights and input size. Keras' SAME pooling is ONNX' ``ceil_mode``, and ``conv2d_7`` is VALID.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StartupError
from pipeline.inference.importing.legacy_torch import read_state
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard

_MODULES = frozenset({"MainModel KitModel", "torch.nn.modules.conv Conv2d", "torch.nn.modules.batchnorm BatchNorm2d"})
_BN_EPSILON = 0.001
_DUST = 1e-15
_TRUNK_POOLED = 6  # conv2d_0 to conv2d_5 are followed by a pooling, conv2d_6 and conv2d_7 are not
_BRANCHES = {"conv2d_3": 0, "conv2d_4": 1, "conv2d_5": 2, "conv2d_6": 3, "conv2d_7": 4}
_OPSET, _IR_VERSION = 13, 8  # fixed, so that the same weights give the same bytes

State = dict[str, NDArray[Any]]


def read_network(pth: bytes) -> State:
    """The weights and statistics of a ``.pth`` by name; raises ``RefusedError`` for a file that is no such network."""
    return read_state(pth, _MODULES)


def to_onnx(pth: bytes, card: ModelCard) -> bytes:
    """The network of a ``.pth`` as ONNX: (n, 3, h, w) → offsets (n, a, 4) and scores (n, a, 2), any batch size.

    The same weights and card always give the same bytes. Raises ``RefusedError`` for a file that is not such a
    network, ``StartupError`` where the ``onnx`` package is missing.
    """
    graph = _Graph(read_network(pth))
    offsets, scores = [], []
    x = card.runtimes["onnxruntime"].tensors.input
    for index in range(8):
        name = f"conv2d_{index}"
        x = graph.conv(x, name, padded=name != "conv2d_7")
        if name in _BRANCHES:
            branch = _BRANCHES[name]
            offsets.append(graph.branch(x, f"loc_{branch}", 4))
            scores.append(graph.sigmoid(graph.branch(x, f"cls_{branch}", len(card.classes)), f"cls_{branch}"))
        if index < _TRUNK_POOLED:
            x = graph.pool(x, f"maxpool2d_{index}")
    return graph.serialize(card, offsets, scores)


@dataclass(slots=True)
class _Graph:
    """ONNX nodes in the making; each method adds some and returns the name of their output."""

    state: State
    nodes: list[Any] = field(default_factory=list)
    weights: list[Any] = field(default_factory=list)
    _onnx: Any = None

    def __post_init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise StartupError("importing a model needs onnx, which is not installed: pip install onnx") from error
        self._onnx = onnx

    def conv(self, x: str, name: str, *, padded: bool = True) -> str:
        """Convolution, batch normalisation folded into it, ReLU."""
        weight, bias = fold(self.state, name)
        return self._add("Relu", [self._conv(x, name, weight, bias, padded=padded)], f"{name}_activation")

    def branch(self, x: str, name: str, columns: int) -> str:
        """One output branch: (n, c, h, w) → (n, h * w * anchors, columns)."""
        x = self.conv(x, f"{name}_insert_conv2d")
        weight, bias = self._array(f"{name}_conv.weight"), self._array(f"{name}_conv.bias")
        x = self._conv(x, f"{name}_conv", weight, bias, padded=True)
        x = self._add("Transpose", [x], f"{name}_conv_permute", perm=[0, 2, 3, 1])
        shape = self._weight(f"{name}_shape", np.array([0, -1, columns], np.int64))
        return self._add("Reshape", [x, shape], f"{name}_reshape")

    def sigmoid(self, x: str, name: str) -> str:
        return self._add("Sigmoid", [x], f"{name}_activation")

    def pool(self, x: str, name: str) -> str:
        return self._add("MaxPool", [x], name, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)

    def serialize(self, card: ModelCard, offsets: list[str], scores: list[str]) -> bytes:
        helper, float32 = self._onnx.helper, self._onnx.TensorProto.FLOAT
        tensors, anchors = card.runtimes["onnxruntime"].tensors, card.head.anchor_count()
        self._add("Concat", offsets, tensors.boxes, axis=1)
        self._add("Concat", scores, tensors.scores, axis=1)
        shape = ["n", 3, card.input.height, card.input.width]
        graph = helper.make_graph(
            self.nodes,
            card.name,
            [helper.make_tensor_value_info(tensors.input, float32, shape)],
            [
                helper.make_tensor_value_info(tensors.boxes, float32, ["n", anchors, 4]),
                helper.make_tensor_value_info(tensors.scores, float32, ["n", anchors, len(card.classes)]),
            ],
            self.weights,
        )
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=_IR_VERSION, producer_name="facemask-pipeline")
        self._onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))

    def _conv(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any], *, padded: bool) -> str:
        inputs = [x, self._weight(f"{name}.weight", weight), self._weight(f"{name}.bias", bias)]
        return self._add("Conv", inputs, name, kernel_shape=list(weight.shape[2:]), pads=[int(padded)] * 4)

    def _add(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(self._onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def _weight(self, name: str, value: NDArray[Any]) -> str:
        self.weights.append(self._onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _array(self, name: str) -> NDArray[Any]:
        return array(self.state, name)


def array(state: State, name: str) -> NDArray[Any]:
    """A weight by its name; raises ``RefusedError`` where the file does not hold it."""
    if name not in state:
        raise RefusedError(f"it holds no weight {name}")
    return state[name]


def fold(state: State, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution with the batch normalisation behind it folded in (computed in float64)."""
    weight = array(state, f"{name}.weight").astype(np.float64)
    gamma, beta, mean, variance = (
        array(state, f"{name}_bn.{part}").astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + _BN_EPSILON)
    return without_dust(weight * scale[:, None, None, None]), without_dust(beta - mean * scale)


def without_dust(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 with what is below ``_DUST`` set to zero.

    Training has let most filters of these networks decay to 1e-20 and less. They change no output, but their products
    are subnormal numbers, with which a processor takes several times as long (82 ms instead of 15 per picture).
    """
    return np.where(np.abs(values) < _DUST, 0, values).astype(np.float32)
