"""Export: ONNX node by node, batch normalisation folded, any batch size, operators that every runtime has."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import VARIANCES, ConvBnRelu, Deployed, FaceMaskNet, Head, Separable

OUTPUTS = ["boxes", "scores"]


def folded(network: FaceMaskNet) -> FaceMaskNet:
    """A copy whose convolutions have the batch normalisation behind them in their weights."""
    network = copy.deepcopy(network).eval()
    for module in network.modules():
        if isinstance(module, ConvBnRelu):
            convolution, normalisation = module[0], module[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(normalisation, nn.BatchNorm2d)
            module[0] = fuse_conv_bn_eval(convolution, normalisation)
            module[1] = nn.Identity()
    with torch.no_grad():
        for weight in network.parameters():
            # subnormal weights make some runtimes crawl
            weight[weight.abs() < 1e-20] = 0
    return network


class Writer:
    """Collects nodes; every method takes and returns names of tensors. Convolutions are called as in the network."""

    def __init__(self, network: FaceMaskNet) -> None:
        self.names = {layer: name for name, layer in network.named_modules()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.float32] | NDArray[np.int64]] = {}

    def node(self, kind: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        self.constants[name] = value
        return name

    def conv(self, layer: nn.Module, x: str, relu: bool = False, scale: NDArray[np.float32] | None = None) -> str:
        assert isinstance(layer, nn.Conv2d)
        weight = layer.weight.detach().numpy()
        bias = None if layer.bias is None else layer.bias.detach().numpy()
        if scale is not None and bias is not None:
            weight, bias = weight * scale[:, None, None, None], bias * scale
        name = self.names[layer].removesuffix(".0")
        inputs = [x, self.constant(f"{name}.weight", weight)]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", bias))
        pad, stride = int(layer.padding[0]), layer.stride[0]
        output = self.node(
            "Conv", inputs, name, kernel_shape=list(layer.kernel_size), strides=[stride, stride],
            pads=[pad] * 4, group=layer.groups,
        )  # fmt: skip
        return self.node("Relu", [output]) if relu else output

    def separable(self, block: nn.Module, x: str) -> str:
        assert isinstance(block, Separable)
        y = self.conv(block.pointwise[0], self.conv(block.depthwise, x))
        return self.node("Relu", [self.node("Add", [y, x]) if block.adds else y])

    def doubled(self, x: str) -> str:
        scales = self.constant("double", np.array([1, 1, 2, 2], np.float32))
        return self.node(
            "Resize", [x, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )  # fmt: skip

    def head(self, head: nn.Module, x: str) -> tuple[str, str]:
        """(n, cells, 4) offsets divided by the variances and (n, cells, classes) logits."""
        assert isinstance(head, Head)
        for block in head.layers:
            x = self.separable(block, x)
        rows = []
        scale = 1 / np.array(VARIANCES, np.float32)
        for layer, factor, width in ((head.boxes, scale, 4), (head.scores, None, head.scores.out_channels)):
            y = self.node("Transpose", [self.conv(layer, x, scale=factor)], perm=[0, 2, 3, 1])
            shape = self.constant(f"rows_of_{width}", np.array([0, -1, width], np.int64))
            rows.append(self.node("Reshape", [y, shape]))
        return rows[0], rows[1]


def graph_of(network: FaceMaskNet) -> onnx.ModelProto:
    network = folded(network)
    w = Writer(network)
    x = w.conv(network.stem[0], "image", relu=True)
    levels = []
    for i, stage in enumerate(network.stages):
        assert isinstance(stage, nn.Sequential)
        for block in stage:
            x = w.separable(block, x)
        if i:
            lateral = network.laterals[i - 1]
            assert isinstance(lateral, ConvBnRelu)
            levels.append(w.conv(lateral[0], x, relu=True))
    c8, c16, c32 = levels
    p16 = w.separable(network.down[0], w.node("Add", [c16, w.doubled(c32)]))
    p8 = w.separable(network.down[1], w.node("Add", [c8, w.doubled(p16)]))
    p32 = c32
    if len(network.up):
        p16 = w.node("Add", [p16, w.separable(network.up[0], p8)])
        p32 = w.node("Add", [c32, w.separable(network.up[1], p16)])
    parts = [w.head(head, level) for head, level in zip(network.heads, (p8, p16, p32), strict=True)]
    w.node("Concat", [boxes for boxes, _ in parts], "boxes", axis=1)
    w.node("Sigmoid", [w.node("Concat", [scores for _, scores in parts], axis=1)], "scores")
    a = network.architecture
    cells = sum(columns * rows for columns, rows in a.maps)
    graph = helper.make_graph(
        w.nodes,
        "facemask",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, a.height, a.width])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", cells, width])
            for name, width in zip(OUTPUTS, (4, a.classes), strict=True)
        ],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in w.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def write_onnx(network: FaceMaskNet, path: Path) -> None:
    """Writes the network and compares it with PyTorch in ONNX Runtime."""
    model = graph_of(network)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    compare(network, path)


def compare(network: FaceMaskNet, path: Path, tolerance: float = 1e-3) -> None:
    """Raises where ONNX Runtime and PyTorch disagree, alone or in a batch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    size = network.architecture.height, network.architecture.width
    pictures = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = [x.numpy() for x in Deployed(network).eval()(pictures)]
    together = session.run(OUTPUTS, {"image": pictures.numpy()})
    alone = session.run(OUTPUTS, {"image": pictures[:1].numpy()})
    for name, want, batch, single in zip(OUTPUTS, expected, together, alone, strict=True):
        np.testing.assert_allclose(batch, want, atol=tolerance, rtol=tolerance, err_msg=name)
        np.testing.assert_allclose(single[0], want[0], atol=tolerance, rtol=tolerance, err_msg=name)
