"""PyTorch, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference import graph as g
from pipeline.inference.backend import (
    BackendConfig,
    check_batch,
    failed,
    installed,
    missing_framework,
    no_device,
    unreadable,
)
from pipeline.inference.backends._graph import read_graph
from pipeline.inference.graph import Graph
from pipeline.inference.importing.aizoo import State, read_network
from pipeline.inference.importing.aizoo_weights import of_state
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles

_ZIP = b"PK\x03\x04"


class Config(BackendConfig):
    """Reads the role ``onnx`` for the structure, and the weights from ``pth`` where the card names one.

    A ``pth`` is a state dict (``<convolution>.weight``, ``.bias``; read with ``weights_only``) or one of AIZOO's whole
    modules, of which only the numbers are read. TorchScript and exported programs are not read: they run what stands
    in them while they are loaded.

    threads: PyTorch has one number of threads for a whole process; the last backend made sets it.
    """


class Torch:
    """One network, shared by all threads."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        try:
            import torch
        except ImportError as error:
            raise missing_framework("torch", "facemask-pipeline[torch]") from error
        if config.device == "cuda":
            if not torch.cuda.is_available():
                raise no_device("torch", config.device, "this PyTorch finds no GPU")
            torch.backends.cudnn.allow_tf32 = False  # it keeps 10 of 23 bits
        torch.set_num_threads(config.threads)
        self._torch = torch
        self._spec = card.input
        self._device = config.device
        graph = read_graph("torch", card, files, "pth", lambda content: of_state(_state(torch, content)))
        try:
            self._network: Any = _Network(
                torch, graph, [files.tensors.boxes, files.tensors.scores], config.device
            )  # fmt: skip
        except RuntimeError as error:
            raise unreadable(files.name("onnx"), "torch", error) from error

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        ready = batch if batch.flags.c_contiguous and batch.flags.writeable else batch.copy()
        try:
            with self._torch.inference_mode():
                boxes, scores = self._network(self._torch.from_numpy(ready).to(self._device))
                return {"boxes": boxes.cpu().numpy(), "scores": scores.cpu().numpy()}
        except RuntimeError as error:
            raise failed("torch", error) from error

    def close(self) -> None:
        self._network = None


def _state(torch: Any, content: bytes) -> State:
    if not content.startswith(_ZIP):
        return read_network(content)
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        return {str(name): tensor.detach().numpy() for name, tensor in state.items()}
    except (
        pickle.UnpicklingError, RuntimeError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError,
        OSError, OverflowError, AssertionError,
    ) as error:  # fmt: skip
        raise RefusedError(f"not a state dict: {error}") from error


class _Network:
    """The graph, step by step, images in memory as (n, h, w, c).

    It is not compiled: that needs a C++ compiler on the user's machine, or what came before, which is deprecated and
    never gives its memory back. On the processor, a convolution and its ReLU are one step, as the compiler has them.
    """

    def __init__(self, torch: Any, graph: Graph, outputs: list[str], device: str) -> None:
        self._torch = torch
        self._graph = graph
        self._outputs = outputs
        activated = graph.activated(outputs)
        skipped = set(activated.values())
        self._nodes = [node for node in graph.nodes if node.name not in skipped]
        make = _packed if device == "cpu" and torch.backends.mkldnn.is_available() else _plain
        self._convolutions = {
            node.name: (activated.get(node.name, node.name), make(torch, node, graph, device, node.name in activated))
            for node in graph.nodes
            if isinstance(node, g.Conv)
        }

    def __call__(self, x: Any) -> tuple[Any, Any]:
        values = {self._graph.input: x.contiguous(memory_format=self._torch.channels_last)}
        for node in self._nodes:
            if isinstance(node, g.Conv):
                name, convolution = self._convolutions[node.name]
                values[name] = convolution(values[node.x])
            else:
                values[node.name] = _step(self._torch, self._graph, node, values)
        boxes, scores = (values[name] for name in self._outputs)
        return boxes, scores


def _packed(torch: Any, node: g.Conv, graph: Graph, _: str, relu: bool) -> Callable[[Any], Any]:
    """A convolution by oneDNN with its weights in the order in which it wants them, as PyTorch's compiler calls it."""
    pad, stride, dilation = [node.pad] * 2, [node.stride] * 2, [1, 1]
    weight = torch.from_numpy(node.weight.copy()).to_mkldnn()
    size = [1, *graph.shapes[node.x]]
    weight = torch._C._nn.mkldnn_reorder_conv2d_weight(weight, pad, stride, dilation, node.groups, size)  # noqa: SLF001
    bias = torch.from_numpy(node.bias.copy())
    run, after = torch.ops.mkldnn._convolution_pointwise, "relu" if relu else "none"  # noqa: SLF001
    return lambda x: run(x, weight, bias, pad, stride, dilation, node.groups, after, [], "")


def _plain(torch: Any, node: g.Conv, _: Graph, device: str, relu: bool) -> Callable[[Any], Any]:
    weight = torch.from_numpy(node.weight.copy()).to(device, memory_format=torch.channels_last)
    bias = torch.from_numpy(node.bias.copy()).to(device)

    def run(x: Any) -> Any:
        made = torch.nn.functional.conv2d(x, weight, bias, node.stride, node.pad, 1, node.groups)
        return torch.relu_(made) if relu else made

    return run


def _step(torch: Any, graph: Graph, node: g.Node, values: dict[str, Any]) -> Any:
    functional = torch.nn.functional
    match node:
        case g.Relu():
            return torch.relu(values[node.x])
        case g.Sigmoid():
            return torch.sigmoid(values[node.x])
        case g.MaxPool():
            return functional.max_pool2d(values[node.x], node.size, ceil_mode=node.ceil)
        case g.Upsample():
            return functional.interpolate(values[node.x], scale_factor=node.factor, mode="nearest")
        case g.Add():
            return values[node.x] + values[node.y]
        case g.Rows():
            return values[node.x].permute(0, 2, 3, 1).reshape(-1, *graph.shapes[node.name])
        case g.Concat():
            return torch.cat([values[x] for x in node.xs], 1)
        case g.Conv():
            raise AssertionError("convolutions are made elsewhere")


def available() -> bool:
    return installed("torch")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> Torch:
    return Torch(config, card, files)
