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
_TRUNK = (32, 64, 64, 64, 128, 128, 64, 64)  # channels of conv2d_0 to conv2d_7
_POOLED = 6  # conv2d_0 to conv2d_5 are followed by a pooling, conv2d_6 and conv2d_7 are not
_VALID = 7  # conv2d_7 has no padding
_BRANCHES_FROM = 3  # conv2d_3 and each after it feed a branch
_BRANCH_CHANNELS = 64
_ANCHORS = 4  # of each cell
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
    channels = 3
    for index, made in enumerate(_TRUNK):
        x, channels = graph.conv(x, f"conv2d_{index}", (made, channels), padded=index != _VALID), made
        branch = index - _BRANCHES_FROM
        if branch >= 0:
            offsets.append(graph.branch(x, f"loc_{branch}", channels, 4))
            logits = graph.branch(x, f"cls_{branch}", channels, len(card.classes))
            scores.append(graph.sigmoid(logits, f"cls_{branch}"))
        if index < _POOLED:
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

    def conv(self, x: str, name: str, channels: tuple[int, int], *, padded: bool = True) -> str:
        """Convolution from ``channels[1]`` to ``channels[0]``, batch normalisation folded into it, ReLU."""
        weight, bias = fold(self.state, name, channels)
        return self._add("Relu", [self._conv(x, name, weight, bias, padded=padded)], f"{name}_activation")

    def branch(self, x: str, name: str, channels: int, columns: int) -> str:
        """One output branch: (n, channels, h, w) → (n, h * w * anchors, columns)."""
        x = self.conv(x, f"{name}_insert_conv2d", (_BRANCH_CHANNELS, channels))
        made = _ANCHORS * columns
        weight = array(self.state, f"{name}_conv.weight", (made, _BRANCH_CHANNELS, 3, 3))
        bias = array(self.state, f"{name}_conv.bias", (made,))
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


def array(state: State, name: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """A weight by its name; raises ``RefusedError`` where the file does not hold it in this shape, as float32."""
    if name not in state:
        raise RefusedError(f"it holds no weight {name}")
    if state[name].shape != shape or state[name].dtype != np.float32:
        raise RefusedError(f"its weight {name} is {state[name].shape} {state[name].dtype}, not {shape} float32")
    if not np.isfinite(state[name]).all():
        raise RefusedError(f"its weight {name} holds what is no number")
    return state[name]


def fold(state: State, name: str, channels: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution with the batch normalisation behind it folded in (computed in float64)."""
    weight = array(state, f"{name}.weight", (*channels, 3, 3)).astype(np.float64)
    gamma, beta, mean, variance = (
        array(state, f"{name}_bn.{part}", channels[:1]).astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    if not (np.isfinite(variance) & (variance >= 0)).all():
        raise RefusedError(f"a variance of {name} is not a positive number")
    scale = gamma / np.sqrt(variance + _BN_EPSILON)
    return without_dust(weight * scale[:, None, None, None]), without_dust(beta - mean * scale)


def without_dust(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 with what is below ``_DUST`` set to zero.

    Training has let most filters of these networks decay to 1e-20 and less. They change no output, but their products
    are subnormal numbers, with which a processor takes several times as long (82 ms instead of 10 per picture).
    """
    with np.errstate(over="ignore"):  # of a damaged file; what is too large for a float32 becomes infinite
        return np.where(np.abs(values) < _DUST, 0, values).astype(np.float32)
