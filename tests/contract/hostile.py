"""Loads damaged weights: ``python -m tests.contract.hostile MODEL KIND ROLE FIRST LAST MODELS_DIR``.

Prints a line a file: its number before it is loaded, then what came of it; so whoever reads it knows which file took
the process down. Every file has a card whose sha256 matches.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from pipeline import plugins, resources
from pipeline.errors import PipelineError
from pipeline.inference.backend import check_outputs
from pipeline.inference.model_card import ModelCard, WeightFile, read_card
from pipeline.inference.weights import RuntimeFiles, locate, runtime_of

HEAD_BYTES = 4096


def damaged(good: bytes, number: int) -> bytes:
    """The file of that number: every second random, the others cut off or with some bits flipped."""
    rng = np.random.default_rng(number)
    if number % 2:
        return rng.bytes(int(10 ** rng.uniform(0, 5)))
    if number % 4:
        return good[: int(rng.integers(0, len(good)))]
    content = bytearray(good)
    low, high = [(0, HEAD_BYTES), (max(0, len(good) - HEAD_BYTES), len(good)), (0, len(good))][number // 4 % 3]
    for _ in range(int(rng.integers(1, 64))):
        content[int(rng.integers(low, min(high, len(good))))] ^= 1 << int(rng.integers(0, 8))
    return bytes(content)


def load(card: ModelCard, path: Path, kind: str, files: RuntimeFiles) -> str:
    plugin = plugins.load("backend", kind)
    try:
        backend = plugin.create(plugin.config(), card, files)
        try:
            picture = np.zeros((1, 3, card.input.height, card.input.width), np.float32)
            check_outputs(backend.infer(picture), 1, card, path)
        finally:
            backend.close()
    except PipelineError as error:
        return "two lines" if "\n" in str(error) else "refused"
    return "runs"


def main(model: str, kind: str, role: str, first: int, last: int, models_dir: Path) -> None:
    path = resources.card_path(model)
    card = read_card(path)
    files = locate(card, path, runtime_of(card, path, kind), models_dir)
    good = files.read(role)
    with tempfile.TemporaryDirectory() as folder:
        bad = Path(folder) / files.name(role).name
        for number in range(first, last):
            content = damaged(good, number)
            bad.write_bytes(content)
            entry = WeightFile(file=bad.name, sha256=hashlib.sha256(content).hexdigest())
            print(number, flush=True)
            print(load(card, path, kind, RuntimeFiles(path, {**files.found, role: (bad, entry)}, files.tensors)))


if __name__ == "__main__":
    _, model, kind, role, first, last, models_dir = sys.argv
    main(model, kind, role, int(first), int(last), Path(models_dir))
