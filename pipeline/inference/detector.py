"""A detector: card, backend and head composed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from pipeline import plugins, resources
from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.inference import weights
from pipeline.inference.backend import Backend, BackendConfig, check_outputs
from pipeline.inference.model_card import ModelCard, read_card
from pipeline.inference.preprocess import Preprocessor, Resize
from pipeline.inference.ssd import Nms, SsdHead, Suppression
from pipeline.types import I420, Detections


class Detector:
    """Finds faces in pictures. Several threads may use one; nothing is remembered from picture to picture."""

    def __init__(
        self,
        card: ModelCard,
        backend: Backend,
        suppression: Suppression | None = None,
        resize: Resize = "area",
    ) -> None:
        self.card = card
        self.backend = backend
        self.suppression = suppression or Suppression()
        self.preprocessor = Preprocessor(card.input, resize)
        self._head = SsdHead(card.head, card.input, len(card.classes))

    @property
    def labels(self) -> tuple[str, ...]:
        """Label of each class id, as the card gives them."""
        return self.card.labels

    def detect_i420(self, image: I420) -> Detections:
        """Faces in a video frame, best first, in its pixels; the planes are only read during the call."""
        return self._detect(self.preprocessor.from_i420(image), image.layout.width, image.layout.height)

    def detect_rgb(self, image: NDArray[np.uint8]) -> Detections:
        """Faces in a picture of (h, w, 3) uint8 RGB, best first, in its pixels."""
        tensor = self.preprocessor.from_rgb(image)
        return self._detect(tensor, image.shape[1], image.shape[0])

    def close(self) -> None:
        """Frees the network's memory; safe twice."""
        self.backend.close()

    def _detect(self, tensor: NDArray[np.float32], width: int, height: int) -> Detections:
        outputs = self.backend.infer(tensor)
        xyxy, confidence, class_id = self._head.detect(outputs["boxes"][0], outputs["scores"][0], self.suppression)
        return Detections(self.preprocessor.to_source(xyxy, width, height), confidence, class_id)


def build_detector(
    model: str,
    backend: str = "onnxruntime",
    backend_options: Mapping[str, Any] | None = None,
    confidence_min: float = 0.5,
    iou_max: float = 0.4,
    nms: Nms = "per_class",
    models_dir: Path | None = None,
    *,
    cross_class_iou_max: float = 0.4,
    resize: Resize = "area",
) -> Detector:
    """A detector that has looked at one empty picture: what its card says is true and its first frame is no slower.

    model: a name, or the path of a folder with a card or of a card. backend_options: without ``kind``.
    models_dir: as ``--models-dir``. cross_class_iou_max: see ``Suppression``; 1.0 for evaluations.

    Raises ``ConfigError`` for a wrong card, option or file, ``StartupError`` for weights or a framework that are not
    on this machine.
    """
    try:
        suppression = Suppression(confidence_min, iou_max, nms, cross_class_iou_max)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    card_path = resources.card_path(model, models_dir)
    card = read_card(card_path)
    cv2.setNumThreads(1)  # of the process: frames are looked at side by side, none is split among threads
    loaded = build_backend(card, card_path, backend, backend_options, models_dir)
    try:
        empty = np.zeros((1, 3, card.input.height, card.input.width), np.float32)
        check_outputs(_first(loaded, empty, card_path), 1, card, card_path)
    except BaseException:
        loaded.close()
        raise
    return Detector(card, loaded, suppression, resize)


def _first(backend: Backend, batch: NDArray[np.float32], card_path: Path) -> Mapping[str, NDArray[Any]]:
    """The outputs for a first picture; a network that cannot look at one is no failure while running."""
    try:
        return backend.infer(batch)
    except RuntimeFailure as error:
        raise StartupError(f"{card_path}: its weights cannot be run: {error}") from error


def build_backend(
    card: ModelCard,
    card_path: Path,
    kind: str = "onnxruntime",
    options: Mapping[str, Any] | None = None,
    models_dir: Path | None = None,
) -> Backend:
    """The model's network in one runtime; raises as ``build_detector`` does."""
    plugin = plugins.load("backend", kind)
    try:
        config = plugin.config.model_validate(dict(options or {}))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"backend {kind}: {where}: {first['input']!r}: {first['msg']}") from error
    precision = config.precision if isinstance(config, BackendConfig) else "fp32"
    runtime = weights.runtime_of(card, card_path, kind, precision)
    backend: Backend = plugin.create(config, card, weights.locate(card, card_path, runtime, models_dir))
    return backend
