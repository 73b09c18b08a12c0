"""Writes what a model finds in every frame of some videos, one JSON file a video, for measure.py and episodes.py."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.inference.detector import Detector, build_detector

CONFIDENCE_MIN = 0.1


def detect(detector: Detector, path: Path) -> dict[str, Any]:
    """The video's name, its size and ``[time_s, [[class_id, confidence, x1, y1, x2, y2], ...]]`` of each frame."""
    plugin = plugins.load("source", "file")
    source = plugin.create(plugin.config.model_validate({"path": str(path)}), "video")
    source.open()
    frames: list[list[Any]] = []
    layout = None
    try:
        while (picture := source.read()) is not None:
            layout = picture.image.layout
            found = detector.detect_i420(picture.image)
            rows = zip(found.class_id.tolist(), found.confidence.tolist(), found.xyxy.tolist(), strict=True)
            frames.append([picture.time_s, [[class_id, confidence, *box] for class_id, confidence, box in rows]])
    finally:
        source.close()
    return {"name": path.stem, "wh": [layout.width, layout.height] if layout else [0, 0], "frames": frames}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", default="aizoo-260")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    detector = build_detector(arguments.model, confidence_min=CONFIDENCE_MIN)
    for path in arguments.videos:
        began = time.monotonic()
        data = detect(detector, path)
        (arguments.out / f"{path.stem}.json").write_text(json.dumps(data))
        print(f"{path.stem}: {len(data['frames'])} frames, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
