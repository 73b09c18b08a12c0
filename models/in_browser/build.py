"""Builds the page that finds masks in the visitor's own browser: ``python -m models.in_browser.build [--to DIR]``.

The page needs three things that do not lie in its folder: this project's model, what its card says, and
onnxruntime-web, which comes from npm (or from ``--npm DIR``, where it is installed already).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import resources
from pipeline.errors import PipelineError, StartupError
from pipeline.inference.model_card import ModelCard, read_card

MODEL = "facemask"
RUNTIME = "onnxruntime-web@1.30.0"
_RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = Path(__file__).parent / "page"


def build(target: Path, npm: Path | None = None) -> Path:
    """Makes or renews the page in ``target``. Raises ``StartupError`` where onnxruntime-web is not to be had."""
    card_path = resources.card_path(MODEL)
    card = read_card(card_path)
    weights = card_path.parent / card.runtimes["onnxruntime"].files["onnx"].file
    target.mkdir(parents=True, exist_ok=True)
    for page_file in _PAGE.iterdir():
        shutil.copy(page_file, target)
    shutil.copy(weights, target / "model.onnx")
    (target / "model.json").write_text(json.dumps(said_by(card)))
    with tempfile.TemporaryDirectory() as scratch:
        dist = (npm or _installed(Path(scratch))) / "onnxruntime-web/dist"
        for name in _RUNTIME_FILES:
            if not (dist / name).is_file():
                raise StartupError(f"{dist / name} is missing: is this {RUNTIME}?")
            shutil.copy(dist / name, target)
    return target


def said_by(card: ModelCard) -> dict[str, Any]:
    """What the page must know of the model, anchors spelt out."""
    tensors = card.runtimes["onnxruntime"].tensors
    size = card.input
    return {
        "name": card.name,
        "width": size.width,
        "height": size.height,
        "mean": size.mean,
        "std": size.std,
        "labels": card.labels,
        "variances": card.head.variances,
        "maps": [
            {"rows": m.rows, "columns": m.columns, "wh": [list(wh) for wh in m.anchors_wh(size.width, size.height)]}
            for m in card.head.maps
        ],
        "input": tensors.input,
        "boxes": tensors.boxes,
        "scores": tensors.scores,
    }


def _installed(scratch: Path) -> Path:
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(scratch), RUNTIME]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise StartupError("npm is missing: install it, or name a folder with --npm") from error
    if done.returncode:
        raise StartupError(f"npm cannot install {RUNTIME}: {done.stderr.strip() or 'it does not say why'}")
    return scratch / "node_modules"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m models.in_browser.build", description=__doc__)
    parser.add_argument(
        "--to", type=Path, default=Path("build/browser"), metavar="DIR", help="(default: build/browser)"
    )
    parser.add_argument("--npm", type=Path, metavar="DIR", help="a node_modules that has onnxruntime-web already")
    options = parser.parse_args()
    try:
        target = build(options.to, options.npm)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{target}: serve it with python3 -m http.server -d {target} --bind 127.0.0.1 8000")
    return 0


if __name__ == "__main__":
    sys.exit(main())
