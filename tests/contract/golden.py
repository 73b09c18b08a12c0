"""What the networks say of a picture from the demo clip: ``python -m tests.contract.golden MODELS_DIR MODEL...``, once.

The picture is kept small and enlarged by repetition, so that no decoder and no resizing stands between the file and a
network. Of the outputs, the rows with the highest scores and some from everywhere are kept.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.inference.model_card import InputSpec

FILE = Path(__file__).resolve().parents[1] / "data" / "golden_demo.npz"
CLIP = Path(__file__).resolve().parents[2] / "config" / "demo" / "demo.mp4"
SIDE, FRAME, BEST, SPREAD = 180, 60, 48, 48


@dataclass(frozen=True)
class Golden:
    """rows: which of the anchors ``boxes`` (k, 4) and ``scores`` (k, classes) belong to."""

    rows: NDArray[np.int64]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]


def batch(spec: InputSpec) -> NDArray[np.float32]:
    """(1, 3, h, w) float32 as the card scales it."""
    with np.load(FILE) as file:
        small = file["picture"]
    times = -(-max(spec.height, spec.width) // SIDE)
    big = small.repeat(times, axis=0).repeat(times, axis=1)[: spec.height, : spec.width]
    values = (big - np.array(spec.mean)) / np.array(spec.std)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], np.float32)


def outputs(model: str) -> Golden:
    with np.load(FILE) as file:
        return Golden(file[f"{model}_rows"], file[f"{model}_boxes"], file[f"{model}_scores"])


def _picture() -> NDArray[np.uint8]:
    import av
    import cv2

    with av.open(str(CLIP)) as container:
        frame = next(f for i, f in enumerate(container.decode(video=0)) if i == FRAME).to_ndarray(format="rgb24")
    side = min(frame.shape[:2])
    left = (frame.shape[1] - side) // 2
    return np.asarray(
        cv2.resize(frame[:side, left : left + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8
    )


def main(models_dir: Path, models: list[str]) -> None:
    """Writes what these models say; what the file holds of others stays."""
    from pipeline import resources
    from pipeline.inference.detector import build_backend
    from pipeline.inference.model_card import read_card

    arrays: dict[str, NDArray[Any]] = {}
    if FILE.exists():
        with np.load(FILE) as file:
            arrays = dict(file)
    else:
        arrays["picture"] = _picture()
        np.savez_compressed(FILE, **arrays)
    for model in models:
        path = resources.card_path(model)
        card = read_card(path)
        backend = build_backend(card, path, "onnxruntime", None, models_dir)
        made = {name: values[0] for name, values in backend.infer(batch(card.input)).items()}
        backend.close()
        best = np.argsort(-made["scores"].max(1))[:BEST]
        rows = np.union1d(best, np.linspace(0, len(made["scores"]) - 1, SPREAD).astype(np.int64))
        arrays |= {f"{model}_rows": rows, **{f"{model}_{name}": values[rows] for name, values in made.items()}}
        print(model, "highest scores", made["scores"].max(0))
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
