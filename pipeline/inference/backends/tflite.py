"""TensorFlow Lite, on the CPU: LiteRT, or the interpreter inside TensorFlow where that is all there is."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.backend import (
    BackendConfig,
    channels_last,
    check_batch,
    contradiction,
    failed,
    installed,
    missing_framework,
    no_device,
    unreadable,
)
from pipeline.inference.backends._graph import read_graph
from pipeline.inference.backends._tflite_writer import write_tflite
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard
from pipeline.inference.pool import Pool
from pipeline.inference.weights import RuntimeFiles

_PACKAGES = (
    ("ai_edge_litert.interpreter", "ai_edge_litert.schema_py_generated"),
    ("tensorflow.lite.python.interpreter", "tensorflow.lite.python.schema_py_generated"),
)
_REFUSALS = (RuntimeError, ValueError, TypeError)


class Config(BackendConfig):
    """Reads the role ``tflite``, or writes such a file in memory from the role ``onnx``."""


class TfLite:
    """A pool of interpreters: one serves one thread at a time, one picture after the other.

    Files are made for batches of one, and some give rows in a wrong order when they are resized to more.
    """

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        self._interpreter, schema = _import()
        if config.device != "cpu":
            raise no_device("tflite", config.device, "it runs on the CPU here")
        self._spec = card.input
        self._threads = config.threads
        role = "tflite" if files.has("tflite") else "onnx"
        try:
            if role == "tflite":
                self._content = files.read("tflite")
            else:
                names = [files.tensors.boxes, files.tensors.scores]
                self._content = write_tflite(schema(), read_graph("tflite", card, files), names)
            self._pool: Pool[Any] = Pool(self._made)
        except (*_REFUSALS, RefusedError) as error:
            raise unreadable(files.name(role), "tflite", error) from error
        with self._pool.lent() as interpreter:
            self._input, self._outputs = _numbers(interpreter, card, files)

    def _made(self) -> Any:
        interpreter = self._interpreter(model_content=self._content, num_threads=self._threads)
        interpreter.allocate_tensors()
        return interpreter

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            with self._pool.lent() as interpreter:
                found = [self._one(interpreter, picture[None]) for picture in channels_last(batch)]
        except _REFUSALS as error:
            raise failed("tflite", error) from error
        if len(found) == 1:
            [(boxes, scores)] = found
            return {"boxes": boxes, "scores": scores}
        return {"boxes": np.concatenate([f[0] for f in found]), "scores": np.concatenate([f[1] for f in found])}

    def _one(self, interpreter: Any, picture: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
        interpreter.set_tensor(self._input, picture)
        interpreter.invoke()
        boxes, scores = (interpreter.get_tensor(number) for number in self._outputs)
        return boxes, scores

    def close(self) -> None:
        self._pool.clear()
        self._content = b""


def _import() -> tuple[Any, Any]:
    """The interpreter's class, and a function that imports its schema."""
    for name in ("TF_CPP_MIN_LOG_LEVEL", "ABSL_MIN_LOG_LEVEL"):
        os.environ.setdefault(name, "3")
    for interpreter, schema in _PACKAGES:
        if installed(interpreter.partition(".")[0]):
            module = importlib.import_module(interpreter)
            return module.Interpreter, lambda schema=schema: importlib.import_module(schema)
    raise missing_framework("ai_edge_litert", "facemask-pipeline[tflite]")


def _numbers(interpreter: Any, card: ModelCard, files: RuntimeFiles) -> tuple[int, list[int]]:
    """The numbers of the input and of the two outputs; raises ``ConfigError`` where the card names others."""
    tensors, card_path = files.tensors, files.card_path
    inputs = {d["name"]: d for d in interpreter.get_input_details()}
    outputs = {d["name"]: d for d in interpreter.get_output_details()}
    if list(inputs) != [tensors.input]:
        raise contradiction(card_path, "tensors.input", repr(tensors.input), ", ".join(map(repr, inputs)))
    for field, name in (("boxes", tensors.boxes), ("scores", tensors.scores)):
        if name not in outputs:
            raise contradiction(card_path, f"tensors.{field}", repr(name), ", ".join(map(repr, outputs)))
    shape, wanted = inputs[tensors.input]["shape"].tolist(), [1, card.input.height, card.input.width, 3]
    if shape != wanted or inputs[tensors.input]["dtype"] is not np.float32:
        raise contradiction(card_path, "input", f"{wanted} float32", f"{shape} {inputs[tensors.input]['dtype']}")
    return inputs[tensors.input]["index"], [outputs[name]["index"] for name in (tensors.boxes, tensors.scores)]


def available() -> bool:
    return installed("ai_edge_litert") or installed("tensorflow")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> TfLite:
    return TfLite(config, card, files)
