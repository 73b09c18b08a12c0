"""One backend in a process of its own: ``python -m tests.contract.alone KIND MODELS_DIR`` prints its cost as JSON."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

from pipeline import resources
from pipeline.inference.detector import build_backend
from pipeline.inference.model_card import read_card
from pipeline.inference.verify import picture

FRAMEWORKS = ("ai_edge_litert", "keras", "mxnet", "onnxruntime", "openvino", "tensorflow", "torch")
WARM, TIMES = 5, 4


def main(kind: str, models_dir: Path) -> None:
    path = resources.card_path("aizoo-260")
    card = read_card(path)
    batch = picture(card.input, 1)
    resident = []
    for _ in range(WARM + TIMES):
        backend = build_backend(card, path, kind, None, models_dir)
        backend.infer(batch)
        backend.close()
        gc.collect()
        resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6)
    grown = min(resident[WARM:][-2:]) - max(resident[:WARM][-2:])
    print(json.dumps({"frameworks": [name for name in FRAMEWORKS if name in sys.modules], "grown_mb": grown}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
