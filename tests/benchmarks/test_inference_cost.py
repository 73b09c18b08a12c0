"""What looking at one frame costs besides the network itself: ``pytest -m benchmark tests/benchmarks -s``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from pipeline import resources
from pipeline.inference.model_card import read_card
from pipeline.inference.preprocess import Preprocessor
from pipeline.inference.ssd import SsdHead, Suppression
from pipeline.types import I420, Layout

pytestmark = pytest.mark.benchmark


def cpu_ms(work: Callable[[], object], calls: int = 100, rounds: int = 9) -> float:
    """Median CPU-ms of one call, of all threads of this process."""
    work()
    measured = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(calls):
            work()
        measured.append((time.process_time() - start) / calls * 1e3)
    return statistics.median(measured)


@pytest.mark.parametrize(("width", "height", "most_ms"), [(1280, 720, 0.7), (1920, 1080, 1.2)])
def test_preprocessing(width: int, height: int, most_ms: float) -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    image = I420.empty(Layout(width, height))
    for plane in (image.y, image.u, image.v):
        plane[:] = cv2.resize(rng.integers(0, 256, (90, 160)).astype(np.uint8), plane.shape[::-1])
    preprocessor = Preprocessor(read_card(resources.card_path("aizoo-260")).input)
    cost = cpu_ms(lambda: preprocessor.from_i420(image))
    print(f"preprocess {width}x{height}: {cost:.3f} CPU-ms")
    assert cost <= most_ms


@pytest.mark.parametrize(("faces", "most_ms"), [(0, 0.1), (3, 0.15)])
def test_head(faces: int, most_ms: float) -> None:
    card = read_card(resources.card_path("aizoo-260"))
    rng = np.random.default_rng(0)
    offsets = rng.normal(0, 0.5, (5972, 4)).astype(np.float32)
    scores = (rng.random((5972, 2)) * 0.3).astype(np.float32)
    for face in range(faces):
        scores[1000 * (face + 1) : 1000 * (face + 1) + 7, face % 2] = 0.9
    head, suppression = SsdHead(card.head, card.input, 2), Suppression()
    cost = cpu_ms(lambda: head.detect(offsets, scores, suppression), calls=500)
    print(f"head, {faces} faces: {cost:.3f} CPU-ms")
    assert cost <= most_ms
