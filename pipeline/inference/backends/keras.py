"""Keras 3 on TensorFlow: a ``.keras`` file, or the network rebuilt from an old structure file or from ONNX."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StartupError
from pipeline.inference import graph as g
from pipeline.inference.backend import BackendConfig, installed, missing_framework, unreadable
from pipeline.inference.backends._graph import read_graph
from pipeline.inference.backends._tf_session import FrozenGraph, import_tensorflow
from pipeline.inference.graph import Graph
from pipeline.inference.importing.aizoo import State, array, read_network, without_dust
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard, TensorNames
from pipeline.inference.weights import RuntimeFiles

_LAYERS_MAX = 2000
_STRUCTURE_BYTES_MAX = 1 << 22
_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
_CLASSES = frozenset({
    "keras DTypePolicy", "keras.src.models.functional Functional",
    "keras.initializers GlorotUniform", "keras.initializers Zeros", "keras.layers Activation", "keras.layers Add",
    "keras.layers BatchNormalization", "keras.layers Concatenate", "keras.layers Conv2D",
    "keras.layers DepthwiseConv2D", "keras.layers InputLayer", "keras.layers MaxPooling2D", "keras.layers ReLU",
    "keras.layers Reshape", "keras.layers UpSampling2D", "keras.layers ZeroPadding2D",
})  # fmt: skip
"""Arithmetic only. A ``.keras`` file names the classes to be made, and others among Keras' run code of the file."""
_ROLES = (("keras", "keras"), ("pth", "json"))
"""The role that holds the weights, and the one whose presence tells that kind of file."""


class Config(BackendConfig):
    """Reads the role ``keras``, the roles ``json`` (a structure that Keras 2 wrote) and ``pth`` (its weights), or
    ``onnx``.

    The network is built by Keras, then frozen: TensorFlow, Keras' engine here, folds what does not change.
    """


class Keras(FrozenGraph):
    """A Keras network in a frozen graph."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        os.environ["KERAS_BACKEND"] = "tensorflow"
        try:
            tf = import_tensorflow()
            import keras
        except ImportError as error:
            raise missing_framework("keras and tensorflow", "facemask-pipeline[keras]") from error
        if keras.backend.backend() != "tensorflow":
            raise StartupError(f"Keras was started on {keras.backend.backend()} in this process, not on tensorflow")
        role = next((role for role, sign in _ROLES if files.has(sign)), "onnx")
        try:
            if role == "keras":
                model = _from_file(keras, files.read("keras"))
            elif role == "pth":
                state = read_network(files.read("pth"))
                role = "json"
                model = _from_structure(keras, files.read("json"), state)
            else:
                model = build(keras, read_graph("keras", card, files))
            definition, tensors = _frozen(tf, model, files.tensors)
            super().__init__(tf, definition, tensors, card.input, config)
        except RefusedError as error:
            raise unreadable(files.name(role), "keras", error) from error


def _frozen(tf: Any, model: Any, names: TensorNames) -> tuple[Any, TensorNames]:
    """The network as a frozen graph; ``names`` are layers."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    layers = {layer.name: layer for layer in model.layers}
    for name in (names.input, names.boxes, names.scores):
        if name not in layers:
            raise RefusedError(f"it has no layer {name!r}")
    shape = (None, *layers[names.input].output.shape[1:])
    outputs = [layers[names.boxes].output, layers[names.scores].output]
    chosen = type(model)(layers[names.input].output, outputs)
    # What its engine refuses is a network that fits together in Keras and not in TensorFlow.
    try:
        traced = tf.function(chosen).get_concrete_function(tf.TensorSpec(shape, tf.float32))
        frozen = convert_variables_to_constants_v2(traced)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise RefusedError(str(error)) from error
    boxes, scores = frozen.outputs
    tensors = names.model_copy(
        update={"input": frozen.inputs[0].name, "boxes": boxes.name, "scores": scores.name}
    )  # fmt: skip
    return frozen.graph.as_graph_def(), tensors


def _from_structure(keras: Any, structure: bytes, state: State) -> Any:
    """A network of Keras 2, layer by layer; its layers' weights are in ``state`` under their names."""
    if len(structure) > _STRUCTURE_BYTES_MAX:
        raise RefusedError("it is too long")
    try:
        config = json.loads(structure)["config"]
        if len(config["layers"]) > _LAYERS_MAX:
            raise RefusedError(f"it has more than {_LAYERS_MAX} layers")
        values: dict[str, Any] = {}
        for entry in config["layers"]:
            name, kind = entry["name"], entry["class_name"]
            sources = [values[inbound[0]] for inbound in entry["inbound_nodes"][0]] if entry["inbound_nodes"] else []
            values[name] = _layer(keras, kind, entry["config"], sources)
            _set_weights(kind, name, values[name], state)
        ends = [values[name] for name, _, _ in config["output_layers"]]
        starts = [values[name] for name, _, _ in config["input_layers"]]
        return keras.Model(starts, ends)
    except RefusedError:
        raise
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise RefusedError(f"not the structure of a known network: {error!r}") from error


def _layer(keras: Any, kind: str, config: dict[str, Any], sources: list[Any]) -> Any:
    """The output of a new layer; only what is read here of its description has a meaning."""
    layers, name = keras.layers, config["name"]
    if not isinstance(name, str):
        raise RefusedError("a layer's name is no text")
    if config.get("data_format", "channels_last") != "channels_last":
        raise RefusedError(f"{name!r} has its channels first")
    match kind:
        case "InputLayer":
            return layers.Input(_sizes(config["batch_input_shape"][1:]), name=name)
        case "Conv2D":
            if config["activation"] != "linear" or _sizes(config["dilation_rate"]) != (1, 1):
                raise RefusedError(f"{name!r} is a convolution of a kind that is not known here")
            [filters] = _sizes([config["filters"]])
            layer = layers.Conv2D(
                filters, _sizes(config["kernel_size"]), _sizes(config["strides"]), str(config["padding"]),
                use_bias=config["use_bias"] is True, name=name,
            )  # fmt: skip
        case "BatchNormalization":
            layer = layers.BatchNormalization(epsilon=float(config["epsilon"]), name=name)
        case "Activation" if config["activation"] in ("relu", "sigmoid"):
            layer = layers.Activation(config["activation"], name=name)
        case "MaxPooling2D":
            pool, strides = _sizes(config["pool_size"]), _sizes(config["strides"])
            layer = layers.MaxPooling2D(pool, strides, str(config["padding"]), name=name)
        case "Reshape":
            _, columns = config["target_shape"]
            layer = layers.Reshape((-1, *_sizes([columns])), name=name)
        case "Concatenate":
            return layers.Concatenate(axis=int(config["axis"]), name=name)(sources)
        case _:
            raise RefusedError(f"the layer {name!r} is a {str(kind)[:40]}, which is not known here")
    [source] = sources
    return layer(source)


def _sizes(values: list[Any]) -> tuple[int, ...]:
    if not all(type(n) is int and 1 <= n <= 4096 for n in values):
        raise RefusedError(f"{str(values)[:60]} are not sizes")
    return tuple(values)


def _set_weights(kind: str, name: str, output: Any, state: State) -> None:
    if kind not in ("Conv2D", "BatchNormalization"):
        return
    layer = output._keras_history.operation  # noqa: SLF001 - the way from a tensor to its layer
    shapes = [tuple(weight.shape) for weight in layer.weights]
    if kind == "Conv2D":
        height, width, taken, made = shapes[0]
        weight = without_dust(array(state, f"{name}.weight", (made, taken, height, width)).astype("float64"))
        bias = [array(state, f"{name}.bias", (made,))] if len(shapes) > 1 else []
        layer.set_weights([weight.transpose(2, 3, 1, 0), *bias])
    else:
        parts = ("weight", "bias", "running_mean", "running_var")
        layer.set_weights([array(state, f"{name}.{part}", shapes[0]) for part in parts])


def _from_file(keras: Any, content: bytes) -> Any:
    """The network of a ``.keras`` file in which nothing but known classes is named."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if {*archive.namelist()} != _MEMBERS:
                raise RefusedError(f"it does not hold {', '.join(sorted(_MEMBERS))}")
            if archive.getinfo("config.json").file_size > _STRUCTURE_BYTES_MAX:
                raise RefusedError("its structure is too long")
            unknown = set(_classes(json.loads(archive.read("config.json")))) - _CLASSES
        if unknown:
            raise RefusedError(f"it names {', '.join(sorted(unknown))[:200]}, which is not known here")
        with tempfile.TemporaryDirectory(prefix="facemask-") as folder:
            path = Path(folder) / "model.keras"
            path.write_bytes(content)
            return keras.saving.load_model(path, compile=False, safe_mode=True)
    except RefusedError:
        raise
    except (
        zipfile.BadZipFile, zlib.error, KeyError, IndexError, ValueError, TypeError, AttributeError, RecursionError,
        OSError, EOFError, NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise RefusedError(f"not such a file: {error!r}") from error


def _classes(value: Any) -> Iterator[str]:
    """``module class`` of every object that a structure describes, at any depth."""
    if isinstance(value, dict):
        if "class_name" in value and value["class_name"] != "__keras_tensor__":
            yield f"{value.get('module')} {value['class_name']}"
            if value.get("registered_name") not in (None, value["class_name"]):
                yield str(value["registered_name"])
        value = list(value.values())
    if isinstance(value, list):
        for entry in value:
            yield from _classes(entry)


def build(keras: Any, graph: Graph) -> Any:
    """The graph layer by layer; images are (n, h, w, c) in it."""
    _, height, width = graph.shapes[graph.input]
    values: dict[str, Any] = {graph.input: keras.layers.Input((height, width, 3), name=graph.input)}
    for node in graph.nodes:
        make: Callable[..., Any] = _convolution if isinstance(node, g.Conv) else _step
        values[node.name] = make(keras, graph, node, values)
    return keras.Model(values[graph.input], [values[node.name] for node in graph.nodes])


def _convolution(keras: Any, _: Graph, node: g.Conv, values: dict[str, Any]) -> Any:
    layers, x = keras.layers, values[node.x]
    if node.pad and not node.keeps_size:
        x = layers.ZeroPadding2D(node.pad)(x)
    padding, size = "same" if node.keeps_size else "valid", node.weight.shape[2:]
    if node.depthwise:
        layer = layers.DepthwiseConv2D(size, node.stride, padding, name=node.name)
        weight = node.weight.transpose(2, 3, 0, 1)
    else:
        layer = layers.Conv2D(len(node.weight), size, node.stride, padding, groups=node.groups, name=node.name)
        weight = node.weight.transpose(2, 3, 1, 0)
    made = layer(x)
    layer.set_weights([weight, node.bias])
    return made


def _step(keras: Any, graph: Graph, node: g.Node, values: dict[str, Any]) -> Any:
    layers, name = keras.layers, node.name
    match node:
        case g.Relu():
            return layers.Activation("relu", name=name)(values[node.x])
        case g.Sigmoid():
            return layers.Activation("sigmoid", name=name)(values[node.x])
        case g.MaxPool():
            return layers.MaxPooling2D(node.size, node.size, "same" if node.ceil else "valid", name=name)(
                values[node.x]
            )
        case g.Upsample():
            return layers.UpSampling2D(node.factor, interpolation="nearest", name=name)(values[node.x])
        case g.Add():
            return layers.Add(name=name)([values[node.x], values[node.y]])
        case g.Rows():
            return layers.Reshape(graph.shapes[name], name=name)(values[node.x])
        case g.Concat():
            axis = 1 if len(graph.shapes[name]) == 2 else 3
            return layers.Concatenate(axis=axis, name=name)([values[x] for x in node.xs])
        case g.Conv():
            raise AssertionError("convolutions are made elsewhere")


def available() -> bool:
    return installed("keras", "tensorflow")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> Keras:
    return Keras(config, card, files)
