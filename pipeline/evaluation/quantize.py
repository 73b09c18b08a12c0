"""A network in 8 bits: static quantisation of its ONNX file, per output channel (Jacob et al. 2018).

What the ranges of the activations are is measured on pictures, which go through the product's own preprocessing.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from pipeline import resources
from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.evaluation.dataset import PICTURE_SUFFIXES, Sample
from pipeline.inference.importing.dead_channels import without_dead_channels
from pipeline.inference.model_card import ModelCard
from pipeline.inference.picture import read_rgb
from pipeline.inference.preprocess import Preprocessor
from pipeline.inference.weights import file_sha256

RUNTIME, ROLE = "onnxruntime", "onnx"
SUFFIX = "-int8"

_CHANNELS = 8
"""A multiple of it is what ONNX Runtime's 8-bit convolutions are fastest at."""

_ARRANGING = ("Concat", "Reshape", "Transpose", "Sigmoid")
"""What only arranges the outputs: in 8 bits it costs accuracy and wins no time."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantise. keep_heads: the last convolutions stay as they are. keep_first: so does the first."""

    name: str
    keep_heads: bool = False
    keep_first: bool = False


RECIPES = (
    Recipe("all convolutions"),
    Recipe("all but the last convolutions", keep_heads=True),
    Recipe("all but the first and the last convolutions", keep_heads=True, keep_first=True),
)
"""From the fastest to the most careful; the first that is accurate enough is taken."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder or of ``images`` in it, by name; raises ``ConfigError`` where there are none."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder")
    inside = folder / "images" if (folder / "images").is_dir() else folder
    found = sorted(file for file in inside.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES)
    if not found:
        raise ConfigError(f"{inside}: holds no pictures ({' '.join(PICTURE_SUFFIXES)})")
    return found


def spread(pictures: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` of them, evenly from first to last."""
    return [pictures[i * len(pictures) // count] for i in range(count)] if len(pictures) > count else list(pictures)


def check_apart(calibration: Iterable[Path], samples: Iterable[Sample]) -> None:
    """Raises ``ConfigError`` where a picture is in both, whatever its name."""
    known = {file_sha256(path): path for path in calibration}
    for sample in samples:
        same = known.get(file_sha256(sample.path))
        if same is not None:
            raise ConfigError(f"{sample.path} is the calibration picture {same}: evaluate on other pictures")


def quantized(
    content: bytes, input_name: str, pictures: Sequence[Path], preprocessor: Preprocessor, how: Recipe
) -> bytes:
    """The ONNX file in 8 bits. Raises ``StartupError`` without the quantiser, ``RuntimeFailure`` where it fails."""
    try:
        import onnx
        from onnxruntime import quantization
    except ImportError as error:
        raise StartupError(f"quantising needs a package that is not installed: {error}") from error

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """One picture at a time, as a network's input."""

        def __init__(self) -> None:
            self._tensors = (preprocessor.from_rgb(read_rgb(path)).copy() for path in pictures)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            tensor = next(self._tensors, None)
            return None if tensor is None else {input_name: tensor}

    network = onnx.load_from_string(content)
    without_dead_channels(network, _CHANNELS)
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        try:
            quantization.quantize_static(
                network,
                target,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=_kept(network.graph.node, how),
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
            raise RuntimeFailure(f"the network cannot be quantised: {' '.join(str(error).split())[:300]}") from error
        return target.read_bytes()


def _kept(nodes: Sequence[Any], how: Recipe) -> list[str]:
    """Names of the nodes that stay in floating point."""
    kept = [node.name for node in nodes if node.op_type in _ARRANGING]
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    if how.keep_first:
        kept += [node.name for node in convolutions[:1]]
    if how.keep_heads:
        arranged = {name for node in nodes if node.op_type in _ARRANGING for name in node.input}
        kept += [node.name for node in convolutions if arranged.intersection(node.output)]
    return kept


def write_model(card: ModelCard, content: bytes, measured: str, how: Recipe, target: Path) -> Path:
    """Card and weights of the quantised model in the folder ``target``; returns the card's path.

    The card is written last, so that a folder with a card is whole. Raises ``StartupError``.
    """
    file = f"{target.name}.onnx"
    values = card.model_dump(mode="json", exclude={"original"}, exclude_defaults=True)
    weights = {"file": file, "sha256": hashlib.sha256(content).hexdigest()}
    tensors = card.runtimes[RUNTIME].tensors.model_dump()
    values |= {
        "name": target.name,
        "classes": dict(card.classes),
        "summary": f"{card.summary}; in 8 bits, {how.name}",
        "source": f"quantised from {card.name} ({card.source})",
        "measured": measured,
        "runtimes": {RUNTIME: {"files": {ROLE: weights}, "tensors": tensors}},
    }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name, data in ((file, content), (resources.CARD_FILE, text.encode())):
            part = target / f".{name}.part"
            part.write_bytes(data)
            part.replace(target / name)
    except OSError as error:
        raise StartupError(f"{target}: cannot be written: {error.strerror}") from error
    return target / resources.CARD_FILE


@contextmanager
def draft(card: ModelCard, content: bytes, how: Recipe) -> Iterator[Path]:
    """The same in a folder that goes afterwards, to be evaluated before it is kept."""
    with tempfile.TemporaryDirectory(prefix="quantize-") as folder:
        yield write_model(card, content, "not yet", how, Path(folder) / f"{card.name}{SUFFIX}")


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser's advice, given on the root logger at every call, is for models that still hold foldable nodes."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
