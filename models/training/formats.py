"""The files of an exported network in each framework's own format, and the card's list of them.

What is written is what the backends run: each file is made by the framework that reads it (TensorFlow, Keras, MXNet,
PyTorch) or by the few steps of the graph (Caffe, TensorFlow Lite).
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from pipeline.inference import graph as g
from pipeline.inference.backends import keras as keras_backend
from pipeline.inference.backends import mxnet as mxnet_backend
from pipeline.inference.backends import tensorflow as tensorflow_backend
from pipeline.inference.backends._tf_session import import_tensorflow
from pipeline.inference.backends._tflite_writer import write_tflite

from .caffe import write_caffe

INPUT, OUTPUTS = "image", ["boxes", "scores"]
ROLES = {
    "onnxruntime": ("onnx",),
    "openvino": ("onnx",),
    "opencv_dnn_onnx": ("onnx",),
    "opencv_dnn": ("prototxt", "caffemodel"),
    "torch": ("onnx", "pth"),
    "tensorflow": ("pb",),
    "tflite": ("tflite",),
    "keras": ("keras",),
    "mxnet": ("symbol", "params"),
}
"""By runtime, which files its backend reads."""


def write_formats(onnx_file: Path) -> dict[str, Path]:
    """Writes every format beside an ONNX file; returns the files by role."""
    graph, stem = g.read_onnx(onnx_file.read_bytes()), onnx_file.with_suffix("")
    prototxt, caffemodel = write_caffe(graph)
    symbol, params = _mxnet(graph)
    contents = {
        "prototxt": (".prototxt", prototxt),
        "caffemodel": (".caffemodel", caffemodel),
        "pth": (".pth", _torch(graph)),
        "pb": (".pb", _tensorflow(graph)),
        "tflite": (".tflite", _tflite(graph)),
        "keras": (".keras", _keras(graph)),
        "symbol": ("-symbol.json", symbol),
        "params": ("-0000.params", params),
    }
    files = {"onnx": onnx_file}
    for role, (ending, content) in contents.items():
        files[role] = stem.with_name(stem.name + ending)
        files[role].write_bytes(content)
    return files


def runtimes_of(files: dict[str, Path]) -> dict[str, Any]:
    """The card's ``runtimes``."""
    sha256 = {role: hashlib.sha256(path.read_bytes()).hexdigest() for role, path in files.items()}
    made = {}
    for runtime, roles in ROLES.items():
        ending = ":0" if runtime == "tensorflow" else ""
        names = dict(zip(("input", "boxes", "scores"), (INPUT, *OUTPUTS), strict=True))
        made[runtime] = {
            "files": {role: {"file": files[role].name, "sha256": sha256[role]} for role in roles},
            "tensors": {key: name + ending for key, name in names.items()},
        }
    return made


def note_in_card(card_path: Path, files: dict[str, Path]) -> None:
    """Replaces the card's last part, ``runtimes``; the rest stays as it was written."""
    head, _, _ = card_path.read_text("utf-8").partition("\nruntimes:\n")
    listed = yaml.safe_dump({"runtimes": runtimes_of(files)}, sort_keys=False, default_flow_style=None, width=200)
    card_path.write_text(f"{head}\n{listed}", "utf-8")


def _torch(graph: g.Graph) -> bytes:
    """A state dict: ``<convolution>.weight`` and ``.bias``."""
    import torch

    state = {}
    for node in graph.nodes:
        if isinstance(node, g.Conv):
            state[f"{node.name}.weight"] = torch.from_numpy(node.weight.copy())
            state[f"{node.name}.bias"] = torch.from_numpy(node.bias.copy())
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _tensorflow(graph: g.Graph) -> bytes:
    definition = tensorflow_backend.build(import_tensorflow(), graph)
    return bytes(definition.SerializeToString(deterministic=True))


def _tflite(graph: g.Graph) -> bytes:
    return write_tflite(importlib.import_module("ai_edge_litert.schema_py_generated"), graph, OUTPUTS)


def _keras(graph: g.Graph) -> bytes:
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import_tensorflow()
    import keras

    layers = {layer.name: layer for layer in keras_backend.build(keras, graph).layers}
    model = keras.Model(layers[INPUT].output, [layers[name].output for name in OUTPUTS], name="facemask")
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "made.keras")
        return (Path(folder) / "made.keras").read_bytes()


def _mxnet(graph: g.Graph) -> tuple[bytes, bytes]:
    mx = mxnet_backend.import_mxnet()
    symbol = mxnet_backend.build(mx, graph, OUTPUTS)
    arrays = {}
    for name, values in mxnet_backend.arrays_of(graph).items():
        arrays[f"arg:{name}"] = mx.nd.empty(values.shape)
        arrays[f"arg:{name}"][:] = values
    with tempfile.TemporaryDirectory() as folder:
        mx.nd.save(str(Path(folder) / "made.params"), arrays)
        return re.sub(r"\s+", " ", symbol.tojson()).encode(), (Path(folder) / "made.params").read_bytes()
