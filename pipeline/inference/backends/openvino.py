"""ONNX by OpenVINO, on the CPU."""

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
    installed,
    missing_framework,
    no_device,
    unreadable,
)
from pipeline.inference.model_card import ModelCard
from pipeline.inference.pool import Pool
from pipeline.inference.weights import RuntimeFiles


class Config(BackendConfig):
    """Reads the role ``onnx``.

    compute: in which numbers it multiplies. Left to itself, OpenVINO takes ``bf16`` where the processor has it: faster,
    and raw outputs differ by up to 0.1.
    """

    compute: Literal["f32", "bf16", "f16"] = "f32"


class OpenVino:
    """A pool of compiled networks: one runs in one thread, and two with a thread each do not wait for each other."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        try:
            import openvino
        except ImportError as error:
            raise missing_framework("openvino", "facemask-pipeline[openvino]") from error
        if config.device != "cpu":
            raise no_device("openvino", config.device, "it runs on the CPU here")
        self._core = openvino.Core()
        self._spec = card.input
        self._outputs = [files.tensors.boxes, files.tensors.scores]
        self._input = files.tensors.input
        self._settings = {
            "INFERENCE_PRECISION_HINT": config.compute,
            "INFERENCE_NUM_THREADS": config.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # of several processes, all would be put on the same core
        }
        try:
            self._model: Any = self._core.read_model(files.read("onnx"))
        except (RuntimeError, ValueError) as error:  # a ValueError: its own message is not always text
            raise unreadable(files.name("onnx"), "openvino", error) from error
        _check(self._model, card, files)
        try:
            self._model.reshape([1, 3, card.input.height, card.input.width])
            self._pool: Pool[Any] = Pool(self._compile)
        except RuntimeError as error:
            raise unreadable(files.name("onnx"), "openvino", error) from error

    def _compile(self) -> Any:
        return self._core.compile_model(self._model, "CPU", self._settings).create_infer_request()

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            with self._pool.lent() as request:
                found = [self._one(request, batch[i : i + 1]) for i in range(len(batch))]
        except RuntimeError as error:
            raise failed("openvino", error) from error
        if len(found) == 1:
            [(boxes, scores)] = found
            return {"boxes": boxes, "scores": scores}
        return {"boxes": np.concatenate([f[0] for f in found]), "scores": np.concatenate([f[1] for f in found])}

    def _one(self, request: Any, picture: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        result = request.infer([picture], share_inputs=True)
        return result[self._outputs[0]], result[self._outputs[1]]

    def close(self) -> None:
        self._pool.clear()
        self._model = None


def _check(model: Any, card: ModelCard, files: RuntimeFiles) -> None:
    """The file's own declaration against the card."""
    tensors = files.tensors
    inputs = {name for tensor in model.inputs for name in tensor.get_names()}
    if len(model.inputs) != 1 or tensors.input not in inputs:
        raise contradiction(files.card_path, "tensors.input", repr(tensors.input), ", ".join(map(repr, inputs)))
    outputs = {name for tensor in model.outputs for name in tensor.get_names()}
    for field, name in (("boxes", tensors.boxes), ("scores", tensors.scores)):
        if name not in outputs:
            there = ", ".join(sorted(map(repr, outputs)))
            raise contradiction(files.card_path, f"tensors.{field}", repr(name), there)
    shape, wanted = model.inputs[0].get_partial_shape(), [3, card.input.height, card.input.width]
    if len(shape) != 4 or any(
        n.is_static and n.get_length() != w for n, w in zip(list(shape)[1:], wanted, strict=True)
    ):
        raise contradiction(files.card_path, "input", f"(n, {', '.join(map(str, wanted))})", str(shape))


def available() -> bool:
    return installed("openvino")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> OpenVino:
    return OpenVino(config, card, files)
