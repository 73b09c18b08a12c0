"""A network as the few steps that detectors are made of: what runtimes without a file of their own are built from.

Read from ONNX and checked completely, so that whoever builds from it needs to check nothing again. Shapes are given
without the batch: (channels, height, width) of an image, (rows, columns) of what ``Rows`` makes of one. Names are those
of the tensors in the file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.importing.pickled import RefusedError

Shape = tuple[int, ...]

_NODES_MAX = 2000
_ELEMENTS_MAX = 1 << 26
_SIDE_MAX = 4096


@dataclass(frozen=True, slots=True)
class Conv:
    """weight: (made, taken / groups, height, width) float32; bias: (made,) float32. pad: on all four sides."""

    name: str
    x: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    stride: int
    pad: int
    groups: int

    @property
    def depthwise(self) -> bool:
        """Whether every filter looks at one channel of its own, and there is one filter a channel."""
        return self.groups > 1 and self.groups == self.weight.shape[0] and self.weight.shape[1] == 1

    @property
    def keeps_size(self) -> bool:
        """Whether what comes out is as high and wide as what goes in."""
        return self.stride == 1 and all(side == 2 * self.pad + 1 for side in self.weight.shape[2:])


@dataclass(frozen=True, slots=True)
class Relu:
    name: str
    x: str


@dataclass(frozen=True, slots=True)
class Sigmoid:
    name: str
    x: str


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Squares of ``size``, next to each other. ceil: the last ones may reach over the edge, else they are left out."""

    name: str
    x: str
    size: int
    ceil: bool


@dataclass(frozen=True, slots=True)
class Upsample:
    """Every pixel ``factor`` times in both directions."""

    name: str
    x: str
    factor: int


@dataclass(frozen=True, slots=True)
class Add:
    name: str
    x: str
    y: str


@dataclass(frozen=True, slots=True)
class Rows:
    """(channels, h, w) → (h * w * channels / columns, columns): cell by cell, in each the channels in their order."""

    name: str
    x: str
    columns: int


@dataclass(frozen=True, slots=True)
class Concat:
    """Along the channels of images, or the rows of rows."""

    name: str
    xs: tuple[str, ...]


def inputs(node: Node) -> tuple[str, ...]:
    """The tensors that a node takes."""
    match node:
        case Add():
            return node.x, node.y
        case Concat():
            return node.xs
        case _:
            return (node.x,)


Node = Conv | Relu | Sigmoid | MaxPool | Upsample | Add | Rows | Concat


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in an order in which they can run. shapes: of the input and of every node."""

    input: str
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]

    def activated(self, outputs: Collection[str]) -> dict[str, str]:
        """Convolutions that nothing but a ReLU uses, with that ReLU's name: runtimes make one step of the two."""
        uses = Counter([x for node in self.nodes for x in inputs(node)] + list(outputs))
        made = {node.name: node for node in self.nodes}
        return {
            node.x: node.name
            for node in self.nodes
            if isinstance(node, Relu) and uses[node.x] == 1 and isinstance(made.get(node.x), Conv)
        }

    def with_weights(self, weights: Callable[[Conv], tuple[NDArray[np.float32], NDArray[np.float32]]]) -> Graph:
        """The same network with other weights and biases of the same shapes."""
        nodes = []
        for node in self.nodes:
            if isinstance(node, Conv):
                weight, bias = weights(node)
                if weight.shape != node.weight.shape or bias.shape != node.bias.shape:
                    raise RefusedError(f"its weights of {node.name} are {weight.shape}, not {node.weight.shape}")
                node = replace(node, weight=weight, bias=bias)
            nodes.append(node)
        return replace(self, nodes=tuple(nodes))


def read_onnx(content: bytes) -> Graph:
    """The network of an ONNX file; raises ``RefusedError`` for a damaged file and for anything that is not above."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise RefusedError(f"not ONNX: {error}") from error
    return _Reader(model.graph, onnx).read()


class _Reader:
    def __init__(self, graph: Any, onnx: Any) -> None:
        self._onnx = onnx
        self._graph = graph
        self._arrays: dict[str, NDArray[Any]] = {}
        self._transposed: dict[str, str] = {}
        self._shapes: dict[str, Shape] = {}
        self._nodes: list[Node] = []

    def read(self) -> Graph:
        try:
            for tensor in self._graph.initializer:
                if tensor.external_data or tensor.data_location:
                    raise RefusedError(f"the array {tensor.name!r} lies in another file")
                self._arrays[tensor.name] = self._onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
            raise RefusedError(f"an array cannot be read: {error}") from error
        inputs = [value for value in self._graph.input if value.name not in self._arrays]
        if len(inputs) != 1:
            raise RefusedError(f"it has {len(inputs)} inputs, not one")
        shape = tuple(d.dim_value for d in inputs[0].type.tensor_type.shape.dim)
        if len(shape) != 4 or shape[1] != 3 or not all(1 <= side <= _SIDE_MAX for side in shape[2:]):
            raise RefusedError(f"its input is {shape}, not (n, 3, height, width)")
        self._shapes[inputs[0].name] = shape[1:]
        if len(self._graph.node) > _NODES_MAX:
            raise RefusedError(f"it has more than {_NODES_MAX} nodes")
        for node in self._graph.node:
            self._read_node(node)
        return Graph(inputs[0].name, tuple(self._nodes), self._shapes)

    def _read_node(self, node: Any) -> None:
        read = getattr(self, f"_{node.op_type.lower()}", None) if node.op_type in _OPERATORS else None
        if read is None or node.domain:
            raise RefusedError(f"it uses the operator {node.op_type[:40]!r}, which is not known here")
        if len(node.output) != 1 or not node.input or node.output[0] in (*self._shapes, *self._transposed):
            raise RefusedError(f"{node.name!r} has no output of its own")
        try:
            attributes = {a.name: self._onnx.helper.get_attribute_value(a) for a in node.attribute}
            read(node.output[0], list(node.input), attributes)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            if isinstance(error, RefusedError):
                raise
            raise RefusedError(f"{node.op_type} {node.name!r} is incomplete: {error!r}") from error

    def _add_node(self, node: Node, shape: Shape) -> None:
        if not all(n >= 1 for n in shape) or math.prod(shape) > _ELEMENTS_MAX:
            raise RefusedError(f"{node.name!r} would make {shape}")
        self._nodes.append(node)
        self._shapes[node.name] = shape

    def _image(self, name: str) -> Shape:
        shape = self._shapes[name]
        if len(shape) != 3:
            raise RefusedError(f"{name!r} is {shape}, not an image")
        return shape

    def _conv(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        channels, height, width = self._image(inputs[0])
        weight = self._arrays[inputs[1]]
        bias = self._arrays[inputs[2]] if len(inputs) > 2 else np.zeros(len(weight), np.float32)
        stride, pad = _same(attributes.get("strides", [1, 1])), _same(attributes.get("pads", [0, 0, 0, 0]))
        groups = int(attributes.get("group", 1))
        _only(name, attributes, dilations=[1, 1], auto_pad=b"NOTSET", kernel_shape=list(weight.shape[2:]))
        if weight.dtype != np.float32 or bias.dtype != np.float32 or weight.ndim != 4 or bias.shape != weight.shape[:1]:
            raise RefusedError(f"the weights of {name!r} are not float32 (made, taken, height, width)")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise RefusedError(f"the weights of {name!r} hold what is no number")
        if not 1 <= groups <= channels or weight.shape[1] * groups != channels or weight.shape[0] % groups:
            raise RefusedError(f"{name!r} has weights {weight.shape} for {channels} channels in {groups} groups")
        if not 1 <= stride <= 16 or not 0 <= pad <= 16:
            raise RefusedError(f"{name!r} has stride {stride} and padding {pad}")
        sides = [(n + 2 * pad - k) // stride + 1 for n, k in zip((height, width), weight.shape[2:], strict=True)]
        self._add_node(Conv(name, inputs[0], weight, bias, stride, pad, groups), (weight.shape[0], *sides))

    def _relu(self, name: str, inputs: list[str], _: dict[str, Any]) -> None:
        self._add_node(Relu(name, inputs[0]), self._shapes[inputs[0]])

    def _sigmoid(self, name: str, inputs: list[str], _: dict[str, Any]) -> None:
        self._add_node(Sigmoid(name, inputs[0]), self._shapes[inputs[0]])

    def _maxpool(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        channels, height, width = self._image(inputs[0])
        size, ceil = _same(attributes["kernel_shape"]), bool(attributes.get("ceil_mode", 0))
        if not 2 <= size <= (2 if ceil else 16):  # of larger ones, runtimes differ in where they lay what reaches over
            raise RefusedError(f"{name!r} pools {size} pixels")
        _only(name, attributes, strides=[size, size], pads=[0, 0, 0, 0], dilations=[1, 1], auto_pad=b"NOTSET")
        sides = [-(-n // size) if ceil else n // size for n in (height, width)]
        self._add_node(MaxPool(name, inputs[0], size, ceil), (channels, *sides))

    def _resize(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        channels, height, width = self._image(inputs[0])
        if len(inputs) != 3:
            raise RefusedError(f"{name!r} does not resize by a factor")
        _only(name, attributes, mode=b"nearest", nearest_mode=b"floor", coordinate_transformation_mode=b"asymmetric")
        scales = self._arrays[inputs[2]].tolist()
        factor = int(scales[-1])
        if scales != [1, 1, factor, factor] or not 2 <= factor <= 16:
            raise RefusedError(f"{name!r} resizes by {scales}")
        self._add_node(Upsample(name, inputs[0], factor), (channels, height * factor, width * factor))

    def _add(self, name: str, inputs: list[str], _: dict[str, Any]) -> None:
        x, y = inputs
        if self._shapes[x] != self._shapes[y]:
            raise RefusedError(f"{name!r} adds {self._shapes[y]} to {self._shapes[x]}")
        self._add_node(Add(name, x, y), self._shapes[x])

    def _transpose(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        self._image(inputs[0])
        if list(attributes["perm"]) != [0, 2, 3, 1]:
            raise RefusedError(f"{name!r} transposes by {attributes['perm']}")
        self._transposed[name] = inputs[0]

    def _reshape(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        if inputs[0] not in self._transposed:
            raise RefusedError(f"{name!r} reshapes something else than a transposed image")
        x = self._transposed[inputs[0]]
        _only(name, attributes, allowzero=0)
        shape, elements = self._arrays[inputs[1]].tolist(), math.prod(self._shapes[x])
        if len(shape) != 3 or shape[:2] != [0, -1] or shape[2] < 1 or self._shapes[x][0] % shape[2]:
            raise RefusedError(f"{name!r} reshapes {self._shapes[x]} to {shape}")
        self._add_node(Rows(name, x, shape[2]), (elements // shape[2], shape[2]))

    def _concat(self, name: str, inputs: list[str], attributes: dict[str, Any]) -> None:
        shapes = [self._shapes[x] for x in inputs]
        if attributes["axis"] != 1 or len({shape[1:] for shape in shapes}) != 1:
            raise RefusedError(f"{name!r} joins {shapes} along axis {attributes['axis']}")
        self._add_node(Concat(name, tuple(inputs)), (sum(shape[0] for shape in shapes), *shapes[0][1:]))


_OPERATORS = frozenset(
    {"Conv", "Relu", "Sigmoid", "MaxPool", "Resize", "Add", "Transpose", "Reshape", "Concat"}
)  # fmt: skip


def _same(values: Any) -> int:
    """The one value that all of ``values`` have."""
    different = set(values)
    if len(different) != 1:
        raise RefusedError(f"{list(values)} should be the same in every direction")
    return int(different.pop())


def _only(name: str, attributes: dict[str, Any], **wanted: Any) -> None:
    """Refuses attributes that say something else than the one thing that is supported."""
    for key, value in wanted.items():
        said = attributes.get(key, value)
        if (list(said) if isinstance(value, list) else said) != value:
            raise RefusedError(f"{name!r} has {key} {said!r}, and only {value!r} is known here")
