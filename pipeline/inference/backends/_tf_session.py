"""A frozen TensorFlow graph, checked and run: what the backends ``tensorflow`` and ``keras`` have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.backend import BackendConfig, channels_last, check_batch, failed, no_device
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import InputSpec, TensorNames

_OPERATORS = frozenset({
    "Add", "AddV2", "AvgPool", "BatchToSpaceND", "BiasAdd", "Cast", "Concat", "ConcatV2", "Const", "Conv2D",
    "DepthwiseConv2dNative", "Exp", "ExpandDims", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "Identity",
    "IdentityN", "LeakyRelu", "MatMul", "MaxPool", "Mean", "Mul", "Neg", "NoOp", "Pack", "Pad", "PadV2", "Placeholder",
    "RealDiv", "Relu", "Relu6", "Reshape", "ResizeBilinear", "ResizeNearestNeighbor", "Rsqrt", "Shape", "Sigmoid",
    "Slice", "Softmax", "SpaceToBatchND", "Split", "Sqrt", "Squeeze", "StopGradient", "StridedSlice", "Sub", "Sum",
    "Tanh", "Tile", "Transpose", "Unpack",
})  # fmt: skip
"""Arithmetic only. A graph is a program, and others among TensorFlow's operators read and write files."""


def import_tensorflow() -> Any:
    """The module, without its greetings on standard error; raises ``ImportError``."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _greetings_unheard():
        import tensorflow as tf
    return tf


@contextmanager
def _greetings_unheard() -> Iterator[None]:
    """Some of them are written before there is a level that could be set."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_graph(definition: Any) -> None:
    """Raises ``RefusedError`` for a graph that could do more than compute."""
    if definition.library.function:
        raise RefusedError("it defines functions of its own")
    unknown = {node.op for node in definition.node} - _OPERATORS
    if unknown:
        raise RefusedError(f"it uses operators that are not known here: {', '.join(sorted(unknown))[:200]}")


class FrozenGraph:
    """A graph in a session of its own, which all threads share; (n, h, w, 3) inside."""

    def __init__(self, tf: Any, definition: Any, tensors: TensorNames, spec: InputSpec, config: BackendConfig) -> None:
        """Raises ``RefusedError`` for a graph that cannot be run or has no such tensors."""
        check_graph(definition)
        for node in definition.node:
            node.device = ""
        v1 = tf.compat.v1
        if config.device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise no_device("tensorflow", config.device, "this TensorFlow finds no GPU")
        self._spec = spec
        self._errors = (tf.errors.OpError, ValueError, TypeError, KeyError, RuntimeError)
        graph = tf.Graph()
        try:
            with graph.as_default():
                v1.import_graph_def(definition, name="")
            taken, *made = (
                graph.get_tensor_by_name(name if ":" in name else f"{name}:0")
                for name in (tensors.input, tensors.boxes, tensors.scores)
            )
            settings = v1.ConfigProto(
                intra_op_parallelism_threads=config.threads,
                inter_op_parallelism_threads=-1,  # in the caller's thread
                use_per_session_threads=True,
                device_count={"GPU": int(config.device == "cuda")},
            )
            self._session: Any = v1.Session(graph=graph, config=settings)
            self._run: Any = self._session.make_callable(made, feed_list=[taken])
        except self._errors as error:
            raise RefusedError(str(error)) from error

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            boxes, scores = self._run(channels_last(batch))
        except self._errors as error:
            raise failed("tensorflow", error) from error
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
        self._session = self._run = None
