"""ONNX by ONNX Runtime: on the CPU, or wherever the installed build has an execution provider for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.backend import (
    BackendConfig,
    check_batch,
    contradiction,
    failed,
    missing_framework,
    no_device,
    unreadable,
)
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}


class Config(BackendConfig):
    """Reads the role ``onnx``.

    provider: who computes; the device's own by default. It is refused, and never replaced by the processor, where the
    installed build of ONNX Runtime has none such.
    """

    provider: Literal["cpu", "cuda", "tensorrt", "openvino", "coreml"] | None = None


class OnnxRuntime:
    """One session, shared by all threads: ONNX Runtime's sessions are thread-safe."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        try:
            import onnxruntime as ort
            from onnxruntime.capi import onnxruntime_pybind11_state as state
        except ImportError as error:
            raise missing_framework("onnxruntime", "onnxruntime") from error
        options = ort.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 4  # what it refuses is raised, and said there
        # A thread that spins while it waits takes the core from the decoder and the encoder.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        refusals = (
            state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NoModel,
            state.NotImplemented, state.RuntimeException, state.EPFail, RuntimeError, ValueError,
        )  # fmt: skip
        provider = _PROVIDERS[config.provider or config.device]
        if provider not in ort.get_available_providers():
            there = ", ".join(ort.get_available_providers())
            raise no_device("onnxruntime", config.provider or config.device, f"this build has {there} only")
        try:
            # Its fallback to other providers is tried even where there is no other, and printed on standard output.
            session = ort.InferenceSession(files.read("onnx"), options, providers=[provider], enable_fallback=0)
        except refusals as error:
            raise unreadable(files.name("onnx"), "onnxruntime", error) from error
        if session.get_providers()[0] != provider:
            raise no_device("onnxruntime", config.provider or config.device, "its libraries could not be loaded")
        _check(session, card, files)
        self._session: Any = session
        self._refusals = refusals
        self._spec = card.input
        self._input = files.tensors.input
        self._outputs = [files.tensors.boxes, files.tensors.scores]

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            boxes, scores = self._session.run(self._outputs, {self._input: batch})
        except self._refusals as error:
            raise failed("onnxruntime", error) from error
        return {"boxes": boxes, "scores": scores}

    def close(self) -> None:
        self._session = None


def _check(session: Any, card: ModelCard, files: RuntimeFiles) -> None:
    """The file's own declaration against the card."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name for tensor in session.get_outputs()}
    tensors = files.tensors
    if list(inputs) != [tensors.input]:
        raise contradiction(files.card_path, "tensors.input", repr(tensors.input), ", ".join(map(repr, inputs)))
    for field, name in (("boxes", tensors.boxes), ("scores", tensors.scores)):
        if name not in outputs:
            there = ", ".join(sorted(map(repr, outputs)))
            raise contradiction(files.card_path, f"tensors.{field}", repr(name), there)
    shape = inputs[tensors.input].shape
    wanted = [3, card.input.height, card.input.width]
    if len(shape) != 4 or any(isinstance(n, int) and n != w for n, w in zip(shape[1:], wanted, strict=True)):
        raise contradiction(files.card_path, "input", f"(n, {', '.join(map(str, wanted))})", f"{tuple(shape)}")
    if inputs[tensors.input].type != "tensor(float)":
        raise contradiction(files.card_path, "input", "float32", inputs[tensors.input].type)


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> OnnxRuntime:
    return OnnxRuntime(config, card, files)
