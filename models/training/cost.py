"""What a network costs: CPU-ms a picture in ONNX Runtime with one thread, its anchor decode and suppression included.

Networks take turns, picture by picture, so that a noisy machine hurts all of them alike; the median counts.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.model_card import ModelCard, read_card
from pipeline.inference.preprocess import Preprocessor
from pipeline.inference.ssd import SsdHead, Suppression


class Candidate:
    """A card and the ONNX file to run with it."""

    def __init__(self, card: ModelCard, file: Path, tensors: tuple[str, str, str]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # AIZOO's weights hold subnormal numbers, which cost it a multiple of its time where they are kept
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.preprocess = Preprocessor(card.input)
        self.head = SsdHead(card.head, card.input, len(card.classes))
        self.names = tensors

    @classmethod
    def of(cls, folder: Path, file: Path | None = None, runtime: str = "onnxruntime") -> Candidate:
        card = read_card(folder / "model.yaml")
        known = card.runtimes[runtime]
        path = file or folder / known.files["onnx"].file
        return cls(card, path, (known.tensors.input, known.tensors.boxes, known.tensors.scores))

    def milliseconds(self, picture: NDArray[np.uint8], suppression: Suppression) -> float:
        tensor = self.preprocess.from_rgb(picture)
        image, boxes, scores = self.names
        start = time.process_time()
        offsets, confidence = self.session.run([boxes, scores], {image: tensor})
        self.head.detect(offsets[0], confidence[0], suppression)
        return (time.process_time() - start) * 1e3


def compare(
    candidates: dict[str, Candidate], pictures: list[NDArray[np.uint8]], rounds: int = 3
) -> dict[str, tuple[float, float]]:
    """Median CPU-ms of each candidate, and its ratio to the first one's."""
    suppression = Suppression()
    spent: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for picture in pictures:
            for name, candidate in candidates.items():
                cost = candidate.milliseconds(picture, suppression)
                if number:
                    spent[name].append(cost)
    medians = {name: float(np.median(costs)) for name, costs in spent.items()}
    first = next(iter(medians.values()))
    return {name: (median, median / first) for name, median in medians.items()}
