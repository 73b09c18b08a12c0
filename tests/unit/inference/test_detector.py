from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import ConfigError
from pipeline.inference.detector import Detector, build_detector
from pipeline.inference.model_card import read_card
from pipeline.inference.ssd import Suppression
from pipeline.types import I420, Layout
from tests.unit.inference.tiny_model import ANCHORS, CLASSES, COLUMNS, ROWS, make_onnx, write_model

RGB = np.random.default_rng(0).integers(0, 256, (90, 160, 3)).astype(np.uint8)


class FixedBackend:
    """Says the same of every picture."""

    def __init__(self, boxes: NDArray[np.float32], scores: NDArray[np.float32]) -> None:
        self.outputs = {"boxes": boxes[None], "scores": scores[None]}
        self.closed = 0

    def infer(self, batch: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        assert batch.shape == (1, 3, 48, 64)
        return self.outputs

    def close(self) -> None:
        self.closed += 1


def fixed(tmp_path: Path) -> tuple[Detector, FixedBackend]:
    """A detector that sees one face without a mask at the first anchor."""
    count = ROWS * COLUMNS * ANCHORS
    scores = np.zeros((count, CLASSES), np.float32)
    scores[0, 1] = 0.75
    backend = FixedBackend(np.zeros((count, 4), np.float32), scores)
    return Detector(read_card(write_model(tmp_path)), backend, Suppression()), backend


def test_boxes_are_in_pixels_of_the_source(tmp_path: Path) -> None:
    detector, _ = fixed(tmp_path)
    image = I420.empty(Layout(1280, 720))
    for plane in (image.y, image.u, image.v):
        plane[:] = 128
    found = detector.detect_i420(image)
    # centre (0.125, 0.1667); 0.3 of the shorter side: 14.4 of 64 x 48 pixels
    centre, size = np.array([0.125, 1 / 6]), np.array([14.4 / 64, 0.3])
    wanted = np.concatenate([np.maximum(centre - size / 2, 0), centre + size / 2]) * [1280, 720, 1280, 720]
    assert np.allclose(found.xyxy, [wanted], atol=1e-3)
    assert found.class_id.tolist() == [1]
    assert detector.labels[1] == "no_mask"
    same = detector.detect_rgb(np.zeros((360, 640, 3), np.uint8))
    assert np.allclose(same.xyxy * 2, found.xyxy)


def test_close_closes_the_backend(tmp_path: Path) -> None:
    detector, backend = fixed(tmp_path)
    detector.close()
    assert backend.closed == 1


@pytest.mark.parametrize("backend", ["onnxruntime", "opencv_dnn"])
def test_threads_share_one_detector(tmp_path: Path, backend: str) -> None:
    card = write_model(tmp_path, make_onnx(bias=0.5))
    detector = build_detector(str(card), backend, confidence_min=0.3)
    pictures = [np.roll(RGB, 13 * n, axis=1) for n in range(4)]
    wanted = [detector.detect_rgb(picture) for picture in pictures]
    assert all(len(found) for found in wanted)
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(50):
            found = detector.detect_rgb(pictures[n])
            if not (np.array_equal(found.xyxy, wanted[n].xyxy) and np.array_equal(found.class_id, wanted[n].class_id)):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    detector.close()
    detector.close()
    assert wrong == []


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_wrong_threshold_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match=r"confidence_min is .*; it must be 0 to 1"):
        build_detector(str(write_model(tmp_path)), confidence_min=value)


def loaded_by(code: str) -> set[str]:
    """Frameworks that are loaded after ``code`` has run in an interpreter of its own."""
    frameworks = [
        "onnxruntime",
        "torch",
        "tensorflow",
        "keras",
        "mxnet",
        "openvino",
        "tflite_runtime",
        "ai_edge_litert",
        "onnx",
    ]
    show = f"import json, sys; print(json.dumps([m for m in {frameworks!r} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, timeout=60, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_nothing_loads_a_framework_but_the_backend_that_uses_it(tmp_path: Path) -> None:
    listing = "from pipeline import plugins; assert plugins.kinds('backend')"
    plugs = "\n".join(["import pipeline.inference.detector, pipeline.commands.models", listing])
    configs = "for kind in plugins.kinds('backend'): plugins.load('backend', kind).config()"
    assert loaded_by(f"{plugs}\n{configs}") == set()
    card = write_model(tmp_path)
    for backend, framework in (("onnxruntime", {"onnxruntime"}), ("opencv_dnn", set())):
        build = f"from pipeline.inference.detector import build_detector; build_detector({str(card)!r}, {backend!r})"
        assert loaded_by(build) == framework


_OUTSIDE = """
import numpy as np
from pipeline.inference.backend import BackendConfig

class Config(BackendConfig):
    score: float = 0.6

class Constant:
    def __init__(self, config, card):
        shape = card.head.anchor_count()
        self.outputs = {
            "boxes": np.zeros((1, shape, 4), np.float32),
            "scores": np.full((1, shape, len(card.classes)), config.score, np.float32),
        }

    def infer(self, batch):
        return self.outputs

    def close(self):
        pass

def create(config, card, files):
    assert files.read("onnx")
    return Constant(config, card)
"""


def test_a_backend_from_outside_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "outside_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "onnxruntime.py").write_text(_OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    detector = build_detector(str(write_model(tmp_path / "tiny")), "outside_package.onnxruntime", {"score": 0.9})
    assert detector.detect_rgb(RGB).confidence.max() == pytest.approx(0.9)
