"""Writes a network as Caffe's two files: the structure as text, the weights as a binary message.

Only what Caffe and the SSD branch of it (Permute) have; doubling is a deconvolution with ones, which is exact. The same
graph gives the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.inference import graph as g

Layer = tuple[str, str, tuple[str, ...], str, list[NDArray[np.float32]]]
"""Name, type, what it takes, its parameters as text, its arrays."""


def write_caffe(graph: g.Graph) -> tuple[bytes, bytes]:
    """(prototxt, caffemodel): layers and blobs have the names of the graph's tensors."""
    layers = [layer for node in graph.nodes for layer in _layers(graph, node)]
    shape = " ".join(f"dim: {n}" for n in (1, *graph.shapes[graph.input]))
    lines = ['name: "facemask"', _text(graph.input, "Input", (), f"input_param {{ shape {{ {shape} }} }}")]
    lines += [_text(name, kind, inputs, parameters) for name, kind, inputs, parameters, _ in layers]
    weights = b"".join(
        _field(100, _field(1, name.encode()) + _field(2, kind.encode()) + b"".join(_field(7, _blob(a)) for a in arrays))
        for name, kind, _, _, arrays in layers
        if arrays
    )
    return "\n".join([*lines, ""]).encode(), _field(1, b"facemask") + weights


def _layers(graph: g.Graph, node: g.Node) -> Iterator[Layer]:
    name, inputs = node.name, g.inputs(node)
    match node:
        case g.Conv():
            made, _, height, width = node.weight.shape
            yield name, "Convolution", inputs, (
                f"convolution_param {{ num_output: {made} kernel_h: {height} kernel_w: {width} stride: {node.stride} "
                f"pad: {node.pad} group: {node.groups} }}"
            ), [node.weight, node.bias]  # fmt: skip
        case g.Relu():
            yield name, "ReLU", inputs, "", []
        case g.Sigmoid():
            yield name, "Sigmoid", inputs, "", []
        case g.MaxPool(size=size):
            rounding = "" if node.ceil else " round_mode: FLOOR"
            yield name, "Pooling", inputs, f"pooling_param {{ kernel_size: {size} stride: {size}{rounding} }}", []
        case g.Upsample(factor=factor):
            channels = graph.shapes[node.x][0]
            yield name, "Deconvolution", inputs, (
                f"convolution_param {{ num_output: {channels} kernel_size: {factor} stride: {factor} "
                f"group: {channels} bias_term: false }}"
            ), [np.ones((channels, 1, factor, factor), np.float32)]  # fmt: skip
        case g.Add():
            yield name, "Eltwise", inputs, "eltwise_param { operation: SUM }", []
        case g.Rows(columns=columns):
            orders = " ".join(f"order: {axis}" for axis in (0, 2, 3, 1))
            yield f"{name}_cells", "Permute", inputs, f"permute_param {{ {orders} }}", []
            shape = f"reshape_param {{ shape {{ dim: 0 dim: -1 dim: {columns} }} }}"
            yield name, "Reshape", (f"{name}_cells",), shape, []
        case g.Concat():
            yield name, "Concat", inputs, "concat_param { axis: 1 }", []


def _text(name: str, kind: str, inputs: Sequence[str], parameters: str) -> str:
    bottoms = "".join(f' bottom: "{x}"' for x in inputs)
    return f'layer {{ name: "{name}" type: "{kind}"{bottoms} top: "{name}" {parameters} }}'.replace("  ", " ")


def _blob(values: NDArray[np.float32]) -> bytes:
    """A BlobProto: float data (5, packed) and its shape (7)."""
    dims = b"".join(_varint(n) for n in values.shape)
    return _field(5, np.ascontiguousarray(values, "<f4").tobytes()) + _field(7, _field(1, dims))


def _field(number: int, content: bytes) -> bytes:
    """A field of bytes, text, packed numbers or a message, as Protocol Buffers have it."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + struct.pack("B", value & 127 | 128), value >> 7
    return made + struct.pack("B", value)
