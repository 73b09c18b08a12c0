"""What a backend is: one tensor to named tensors, and nothing else.

A backend is one file in ``pipeline/inference/backends``, named like its kind, with three names:

- ``Config``, a ``BackendConfig``: what the user may choose;
- one class that follows ``Backend``; it imports its framework inside, so that nobody pays for a framework that is not
  used;
- ``create(config: Config, card: ModelCard, files: RuntimeFiles) -> Backend``. ``files`` holds the roles and tensor
  names that the card gives for this runtime; ``files.read(role)`` and ``files.path(role)`` check the sha256;
- where the framework is no part of the base installation, ``available() -> bool``: whether it is installed, found out
  without importing it.

``create`` raises ``StartupError`` where the framework is missing or cannot read the file (``missing_framework``,
``unreadable``), and ``ConfigError`` where the card contradicts what the file says of itself (``contradiction``). What
a file does not say of itself, the detector finds out by one run on an empty picture (``check_outputs``).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.inference.model_card import InputSpec, ModelCard
from pipeline.plugins import PluginConfig, kinds


class BackendConfig(PluginConfig):
    """What every backend understands.

    threads: within one picture; more than one costs more than it gains on small machines. device: ``cuda`` is the
    first NVIDIA GPU; it is refused, and never replaced by the processor, where the runtime cannot use one. precision:
    other than ``fp32`` selects the card's runtime ``<kind>-<precision>``.
    """

    threads: Annotated[int, Field(ge=1, le=64)] = 1
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["fp32", "int8"] = "fp32"


class Backend(Protocol):
    """One loaded network. Several threads may call ``infer`` at the same time."""

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """(n, 3, h, w) float32 RGB as the card scales it → ``{"boxes": (n, a, 4), "scores": (n, a, c)}`` float32.

        Raises ``ValueError`` for another shape or dtype than the card's, ``RuntimeFailure`` where the runtime fails.
        """

    def close(self) -> None:
        """Frees the memory; safe twice. No ``infer`` may be running or follow."""


def installed(*modules: str) -> bool:
    """Whether all of the top-level ``modules`` can be imported; imports none of them."""
    return all(importlib.util.find_spec(module) for module in modules)


def is_available(runtime: str) -> bool:
    """Whether what a card's runtime (``kind``, or ``kind-precision``) needs is installed; imports no framework."""
    kind = runtime.partition("-")[0]
    if kind not in kinds("backend"):
        return True  # of backends outside of this package nothing is known
    module = importlib.import_module(f"pipeline.inference.backends.{kind}")
    return bool(getattr(module, "available", lambda: True)())


def channels_last(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c, h, w) → a copy as (n, h, w, c); OpenCV interleaves several times as fast as NumPy."""
    import cv2

    count, channels, height, width = batch.shape
    made = np.empty((count, height, width, channels), np.float32)
    for planes, picture in zip(batch, made, strict=True):
        cv2.merge([np.ascontiguousarray(plane) for plane in planes], picture)
    return made


def check_batch(batch: NDArray[Any], spec: InputSpec) -> None:
    """Raises ``ValueError`` unless ``batch`` is (n >= 1, 3, height, width) float32."""
    wanted = (3, spec.height, spec.width)
    if batch.ndim != 4 or batch.shape[0] < 1 or batch.shape[1:] != wanted:
        raise ValueError(f"a batch of this model is (n, 3, {spec.height}, {spec.width}), not {batch.shape}")
    if batch.dtype != np.float32:
        raise ValueError(f"a batch is float32, not {batch.dtype}")


def check_outputs(outputs: Mapping[str, NDArray[Any]], count: int, card: ModelCard, card_path: Path) -> None:
    """Raises ``ConfigError`` where what came out for a batch of ``count`` contradicts the card's head or classes."""
    for name, field, columns in (("boxes", "head.variances", 4), ("scores", "classes", len(card.classes))):
        if not isinstance(outputs[name], np.ndarray) or outputs[name].dtype != np.float32:
            raise contradiction(card_path, f"tensors.{name}", "a float32 tensor", "something else")
        shape = outputs[name].shape
        if len(shape) != 3 or shape[0] != count:
            raise contradiction(card_path, f"tensors.{name}", f"(n, a, {columns})", f"{shape} for a batch of {count}")
        if shape[2] != columns:
            raise contradiction(card_path, field, f"{columns}", f"{shape[2]} columns of {name}")
        if shape[1] != card.head.anchor_count():
            size = f"{card.input.width}x{card.input.height}"
            raise contradiction(
                card_path, "head.maps", f"{card.head.anchor_count()} anchors", f"{shape[1]} at an input of {size}"
            )


def contradiction(card: Path | str, field: str, says: str, weights: str) -> ConfigError:
    """The card says one thing and the weights another."""
    return ConfigError(f"{card}: {field}: the card says {says}, the weights say {weights}")


def failed(runtime: str, error: Exception) -> RuntimeFailure:
    """The runtime raised something while it looked at a picture."""
    return RuntimeFailure(f"{runtime} failed: {_one_line(error)}")


def no_device(runtime: str, device: str, why: str) -> StartupError:
    """The runtime cannot compute there, on this machine or at all."""
    return StartupError(f"{runtime} cannot use the device {device!r}: {why}")


def missing_framework(module: str, pip_name: str) -> StartupError:
    return StartupError(f"the backend needs {module}, which is not installed: pip install '{pip_name}'")


def unreadable(path: Path, runtime: str, error: Exception) -> StartupError:
    """The runtime's own parser refused the file."""
    return StartupError(f"{path}: model file unreadable by {runtime}: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
