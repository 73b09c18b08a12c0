"""TensorFlow 2: frozen graphs, SavedModels, and networks built from ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.inference import graph as g
from pipeline.inference.backend import BackendConfig, contradiction, installed, missing_framework, unreadable
from pipeline.inference.backends._graph import read_graph
from pipeline.inference.backends._tf_session import FrozenGraph, check_graph, import_tensorflow
from pipeline.inference.graph import Graph
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles

_SAVED = {
    "saved_model": "saved_model.pb",
    "variables_index": "variables/variables.index",
    "variables_data": "variables/variables.data-00000-of-00001",
}
_SIGNATURE = "serving_default"
_RESTORED = frozenset({"user_object", "variable", "function", "bare_concrete_function", "constant", "captured_tensor"})


class Config(BackendConfig):
    """Reads the role ``pb`` (a frozen graph), the roles of a SavedModel, or builds from the role ``onnx``.

    A SavedModel is ``saved_model``, ``variables_index`` and ``variables_data``; its tensors' names are those of the
    signature ``serving_default``. The input of a frozen graph is (n, h, w, 3).
    """


class TensorFlow(FrozenGraph):
    """A frozen graph, wherever it comes from."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        try:
            tf = import_tensorflow()
        except ImportError as error:
            raise missing_framework("tensorflow", "facemask-pipeline[tensorflow]") from error
        role = next((role for role in ("pb", "saved_model") if files.has(role)), "onnx")
        tensors = files.tensors
        try:
            if role == "pb":
                definition = _parsed(tf.compat.v1.GraphDef(), files.read("pb"))
            elif role == "saved_model":
                definition, tensors = _saved_model(tf, files)
            else:
                definition = build(tf, read_graph("tensorflow", card, files))
            super().__init__(tf, definition, tensors, card.input, config)
        except RefusedError as error:
            raise unreadable(files.name(role), "tensorflow", error) from error


def _parsed(message: Any, content: bytes) -> Any:
    from google.protobuf.message import DecodeError

    try:
        message.ParseFromString(content)
    except DecodeError as error:
        raise RefusedError(f"not such a file: {error}") from error
    return message


def _saved_model(tf: Any, files: RuntimeFiles) -> tuple[Any, Any]:
    """A SavedModel's signature as a frozen graph, and the names that its tensors have there."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    content = {role: files.read(role) for role in _SAVED}
    _check_saved(_parsed(SavedModel(), content["saved_model"]))
    errors = (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError, IndexError, OSError, RuntimeError)
    try:
        with tempfile.TemporaryDirectory(prefix="facemask-") as folder:
            for role, name in _SAVED.items():
                (Path(folder) / name).parent.mkdir(exist_ok=True)
                (Path(folder) / name).write_bytes(content[role])
            loaded = tf.saved_model.load(folder)  # its variables live as long as this does
        signature = loaded.signatures[_SIGNATURE]
        frozen = convert_variables_to_constants_v2(signature)
    except PipelineError:
        raise
    except errors as error:
        raise RefusedError(f"not such a file: {error}") from error
    names = sorted(signature.structured_outputs)
    made = {name: tensor.name for name, tensor in zip(names, frozen.outputs, strict=True)}
    said = files.tensors
    for field, name in (("boxes", said.boxes), ("scores", said.scores)):
        if name not in made:
            raise contradiction(files.card_path, f"tensors.{field}", repr(name), ", ".join(map(repr, made)))
    if len(frozen.inputs) != 1:
        raise RefusedError(f"its signature has {len(frozen.inputs)} inputs, not one")
    renamed = {"input": frozen.inputs[0].name, "boxes": made[said.boxes], "scores": made[said.scores]}
    return frozen.graph.as_graph_def(), said.model_copy(update=renamed)


def _check_saved(model: Any) -> None:
    """Raises ``RefusedError`` where loading would run more than the restoring of variables.

    With its objects described, TensorFlow 2 runs no step of the file's own for a start but those of tables and assets.
    """
    if len(model.meta_graphs) != 1:
        raise RefusedError(f"it holds {len(model.meta_graphs)} graphs, not one")
    [meta] = model.meta_graphs
    kinds = {node.WhichOneof("kind") or "nothing" for node in meta.object_graph_def.nodes}
    if not kinds or kinds - _RESTORED:
        raise RefusedError(f"it holds {', '.join(sorted(kinds - _RESTORED)) or 'no objects'}, which is not known here")
    if meta.asset_file_def:
        raise RefusedError("it brings files of its own")


def build(tf: Any, graph: Graph) -> Any:
    """The definition of a TensorFlow graph that does the same; images are (n, h, w, c) in it."""
    made = tf.Graph()
    with made.as_default():
        _, height, width = graph.shapes[graph.input]
        values = {graph.input: tf.compat.v1.placeholder(tf.float32, (None, height, width, 3), graph.input)}
        for node in graph.nodes:
            step = _convolution(tf, node, values) if isinstance(node, g.Conv) else _step(tf, graph, node, values)
            values[node.name] = tf.identity(step, node.name)
        definition = made.as_graph_def()
    check_graph(definition)
    return definition


def _convolution(tf: Any, node: g.Conv, values: dict[str, Any]) -> Any:
    x, padding = values[node.x], "SAME" if node.keeps_size else "VALID"
    if node.pad and not node.keeps_size:  # TensorFlow's own explicit padding brings its optimiser down
        x = tf.pad(x, [[0, 0], [node.pad, node.pad], [node.pad, node.pad], [0, 0]])
    weight = node.weight.transpose(2, 3, 0 if node.depthwise else 1, 1 if node.depthwise else 0)
    if node.depthwise:
        made = tf.nn.depthwise_conv2d(x, weight, [1, node.stride, node.stride, 1], padding)
    elif node.groups == 1:
        made = tf.nn.conv2d(x, weight, node.stride, padding)
    else:
        raise RefusedError(f"{node.name!r} works in groups")
    return tf.nn.bias_add(made, node.bias)


def _step(tf: Any, graph: Graph, node: g.Node, values: dict[str, Any]) -> Any:
    match node:
        case g.Relu():
            return tf.nn.relu(values[node.x])
        case g.Sigmoid():
            return tf.sigmoid(values[node.x])
        case g.MaxPool():
            return tf.nn.max_pool2d(values[node.x], node.size, node.size, "SAME" if node.ceil else "VALID")
        case g.Upsample():
            return tf.raw_ops.ResizeNearestNeighbor(images=values[node.x], size=list(graph.shapes[node.name][1:]))
        case g.Add():
            return values[node.x] + values[node.y]
        case g.Rows():
            return tf.reshape(values[node.x], (-1, *graph.shapes[node.name]))
        case g.Concat():
            return tf.concat([values[x] for x in node.xs], 1 if len(graph.shapes[node.name]) == 2 else 3)
        case g.Conv():
            raise AssertionError("convolutions are made elsewhere")


def available() -> bool:
    return installed("tensorflow")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> TensorFlow:
    return TensorFlow(config, card, files)
