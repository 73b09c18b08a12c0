"""Channels that are always zero, taken out of an ONNX network; what is left computes the same.

Training with weight decay lets whole filters of a convolution with batch normalisation shrink to nothing. Behind a ReLU
such a channel is zero for every picture, so neither it nor what reads it has to be computed.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np

_PASSES_ON = ("Relu", "MaxPool")
"""A channel that is zero before these is zero behind them, and no channel becomes another."""


def without_dead_channels(network: Any, multiple: int = 1) -> int:
    """Removes them from an ``onnx.ModelProto``, in place; returns how many.

    multiple: so many stay that their number is one of it; runtimes that compute several at once are slower at others.
    A channel goes where its filter is zero, its bias is not positive, and it passes through a ReLU and then to nothing
    but convolutions of one group.
    """
    from onnx import numpy_helper

    graph = network.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    outputs = {output.name for output in graph.output}
    removed = 0
    for node in graph.node:
        if node.op_type != "Conv" or len(node.input) != 3 or _groups(node) != 1:
            continue
        convolutions = _convolutions_behind(node, readers, outputs)
        if not convolutions:
            continue
        weight, bias = weights[node.input[1]], weights[node.input[2]]
        alive = np.abs(weight).reshape(len(weight), -1).any(axis=1) | (bias > 0)
        wanted = -(-max(int(alive.sum()), 1) // multiple) * multiple
        alive[np.flatnonzero(~alive)[: wanted - int(alive.sum())]] = True
        removed += int((~alive).sum())
        weights[node.input[1]], weights[node.input[2]] = weight[alive], bias[alive]
        for reader in convolutions:
            weights[reader.input[1]] = weights[reader.input[1]][:, alive]
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weights[tensor.name]), tensor.name))
    del graph.value_info[:]
    return removed


def _convolutions_behind(node: Any, readers: dict[str, list[Any]], outputs: set[str]) -> list[Any]:
    """All that reads the convolution's channels, behind a ReLU; none where anything else reads them."""
    found: list[Any] = []
    waiting = [(node.output[0], False)]
    while waiting:
        name, positive = waiting.pop()
        if name in outputs or not readers[name]:
            return []
        for reader in readers[name]:
            if reader.op_type in _PASSES_ON:
                waiting.append((reader.output[0], positive or reader.op_type == "Relu"))
            elif positive and reader.op_type == "Conv" and reader.input[0] == name and _groups(reader) == 1:
                found.append(reader)
            else:
                return []
    return found


def _groups(node: Any) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
