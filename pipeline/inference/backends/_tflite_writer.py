"""Writes a graph as TensorFlow Lite: one picture, (1, h, w, c) inside. The same graph gives the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference import graph as g
from pipeline.inference.importing.pickled import RefusedError

_VERSION, _IDENTIFIER = 3, b"TFL3"


def write_tflite(schema: Any, graph: g.Graph, outputs: list[str]) -> bytes:
    """schema: the module of classes that is generated from TensorFlow Lite's schema; it comes with the interpreter."""
    import flatbuffers

    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(_Writer(schema, graph).model(outputs).Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


class _Writer:
    def __init__(self, schema: Any, graph: g.Graph) -> None:
        self._schema = schema
        self._graph = graph
        self._buffers: list[Any] = [schema.BufferT()]
        self._tensors: list[Any] = []
        self._numbers: dict[str, int] = {}
        self._codes: list[int] = []
        self._operators: list[Any] = []

    def model(self, outputs: list[str]) -> Any:
        graph, schema = self._graph, self._schema
        self._made(graph.input)
        activated = graph.activated(outputs)
        for node in graph.nodes:
            if isinstance(node, g.Conv):
                relu = activated.get(node.name)
                self._convolution(node, relu or node.name, relu=relu is not None)
            elif node.name not in self._numbers:
                self._step(node)
        subgraph = schema.SubGraphT(
            tensors=self._tensors,
            inputs=[self._numbers[graph.input]],
            outputs=[self._numbers[name] for name in outputs],
            operators=self._operators,
        )
        codes = [schema.OperatorCodeT(deprecatedBuiltinCode=min(c, 127), builtinCode=c) for c in self._codes]
        return schema.ModelT(
            version=_VERSION, operatorCodes=codes, subgraphs=[subgraph], buffers=self._buffers, description="facemask"
        )

    def _made(self, name: str, shape: g.Shape | None = None) -> int:
        """A new tensor in the graph's shape of that name, or in the one given: (h, w, c), (rows, columns)."""
        shape = shape or _last(self._graph.shapes[name])
        self._numbers[name] = self._tensor(name, (1, *shape), self._schema.TensorType.FLOAT32, 0)
        return self._numbers[name]

    def _constant(self, name: str, values: NDArray[Any]) -> int:
        schema = self._schema
        kind = schema.TensorType.FLOAT32 if values.dtype == np.float32 else schema.TensorType.INT32
        self._buffers.append(schema.BufferT(data=np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)))
        return self._tensor(name, values.shape, kind, len(self._buffers) - 1)

    def _tensor(self, name: str, shape: g.Shape, kind: int, buffer: int) -> int:
        self._tensors.append(
            self._schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name, hasRank=True)
        )  # fmt: skip
        return len(self._tensors) - 1

    def _operator(self, code: str, inputs: list[int], output: int, options: Any = None) -> None:
        schema = self._schema
        number = getattr(schema.BuiltinOperator, code)
        if number not in self._codes:
            self._codes.append(number)
        kind = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T")) if options else 0
        self._operators.append(
            schema.OperatorT(
                opcodeIndex=self._codes.index(number),
                inputs=inputs,
                outputs=[output],
                builtinOptionsType=kind,
                builtinOptions=options,
            )
        )

    def _convolution(self, node: g.Conv, name: str, *, relu: bool) -> None:
        schema = self._schema
        x = self._numbers[node.x]
        if node.pad and not node.keeps_size:
            x = self._padded(node, x)
        shared = {
            "padding": schema.Padding.SAME if node.keeps_size else schema.Padding.VALID,
            "strideW": node.stride,
            "strideH": node.stride,
            "fusedActivationFunction": schema.ActivationFunctionType.RELU if relu else 0,
        }
        if node.depthwise:
            code, weight = "DEPTHWISE_CONV_2D", node.weight.transpose(1, 2, 3, 0)
            options = schema.DepthwiseConv2DOptionsT(depthMultiplier=1, **shared)
        elif node.groups == 1:
            code, weight = "CONV_2D", node.weight.transpose(0, 2, 3, 1)
            options = schema.Conv2DOptionsT(**shared)
        else:
            raise RefusedError(f"{node.name!r} works in groups")
        inputs = [x, self._constant(f"{node.name}/weight", weight), self._constant(f"{node.name}/bias", node.bias)]
        self._operator(code, inputs, self._made(name), options)

    def _padded(self, node: g.Conv, x: int) -> int:
        pad = node.pad
        widths = self._constant(f"{node.name}/pad", np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32))
        height, width, channels = _last(self._graph.shapes[node.x])
        made = self._made(f"{node.name}/padded", (height + 2 * pad, width + 2 * pad, channels))
        self._operator("PAD", [x, widths], made, self._schema.PadOptionsT())
        return made

    def _step(self, node: g.Node) -> None:
        schema, number = self._schema, self._numbers
        inputs = [number[x] for x in g.inputs(node)]
        made = self._made(node.name)
        match node:
            case g.Relu():
                self._operator("RELU", inputs, made)
            case g.Sigmoid():
                self._operator("LOGISTIC", inputs, made)
            case g.MaxPool(size=size):
                padding = schema.Padding.SAME if node.ceil else schema.Padding.VALID
                options = schema.Pool2DOptionsT(
                    padding=padding, strideW=size, strideH=size, filterWidth=size, filterHeight=size
                )  # fmt: skip
                self._operator("MAX_POOL_2D", inputs, made, options)
            case g.Upsample():
                size_hw = self._constant(f"{node.name}/size", np.array(self._graph.shapes[node.name][1:], np.int32))
                options = schema.ResizeNearestNeighborOptionsT()
                self._operator("RESIZE_NEAREST_NEIGHBOR", [*inputs, size_hw], made, options)
            case g.Add():
                self._operator("ADD", inputs, made, schema.AddOptionsT())
            case g.Rows():
                shape = np.array((1, *self._graph.shapes[node.name]), np.int32)
                options = schema.ReshapeOptionsT(newShape=shape.tolist())
                self._operator("RESHAPE", [*inputs, self._constant(f"{node.name}/shape", shape)], made, options)
            case g.Concat():
                axis = 1 if len(self._graph.shapes[node.name]) == 2 else 3
                self._operator("CONCATENATION", inputs, made, schema.ConcatenationOptionsT(axis=axis))
            case g.Conv():
                raise AssertionError("convolutions are made elsewhere")


def _last(shape: g.Shape) -> g.Shape:
    """The shape with the channels of an image behind its sides."""
    return (shape[1], shape[2], shape[0]) if len(shape) == 3 else shape
