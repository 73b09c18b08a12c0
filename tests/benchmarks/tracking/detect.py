"""Writes what a model finds in every frame of some videos, one JSON file a video, for measure.py and episodes.py.

With ``--post`` a grey post as wide as a fifth of the picture goes through it from left to right, in three seconds of
every six: everybody is hidden by it, again and again.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from pipeline import plugins
from pipeline.inference.detector import Detector, build_detector
from pipeline.types import I420

CONFIDENCE_MIN = 0.1
BEHIND_POST = "+behind a post"
POST_WIDTH, POST_CROSSES_S, POST_COMES_S = 0.2, 3.0, 6.0


def behind_post(picture: I420, time_s: float) -> I420:
    """A copy with the post where it is at that time."""
    copy = I420.empty(picture.layout)
    picture.copy_to(copy)
    share = (time_s % POST_COMES_S) / POST_CROSSES_S
    left = (share * (1 + POST_WIDTH) - POST_WIDTH) * picture.layout.width
    edges = [max(0, round(x)) // 2 * 2 for x in (left, left + POST_WIDTH * picture.layout.width)]
    copy.y[:, edges[0] : edges[1]] = 110
    for plane in (copy.u, copy.v):
        plane[:, edges[0] // 2 : edges[1] // 2] = 128
    return copy


def detect(detector: Detector, path: Path, *, post: bool = False) -> dict[str, Any]:
    """The video's name, its size and ``[time_s, [[class_id, confidence, x1, y1, x2, y2], ...]]`` of each frame."""
    plugin = plugins.load("source", "file")
    source = plugin.create(plugin.config.model_validate({"path": str(path)}), "video")
    source.open()
    frames: list[list[Any]] = []
    layout = None
    try:
        while (picture := source.read()) is not None:
            layout = picture.image.layout
            image = behind_post(picture.image, picture.time_s) if post else picture.image
            found = detector.detect_i420(image)
            rows = zip(found.class_id.tolist(), found.confidence.tolist(), found.xyxy.tolist(), strict=True)
            frames.append([picture.time_s, [[class_id, confidence, *box] for class_id, confidence, box in rows]])
    finally:
        source.close()
    name = path.stem + (BEHIND_POST if post else "")
    return {"name": name, "wh": [layout.width, layout.height] if layout else [0, 0], "frames": frames}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", default="aizoo-260")
    parser.add_argument("--post", action="store_true", help="let a post go through the picture")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    detector = build_detector(arguments.model, confidence_min=CONFIDENCE_MIN)
    for path in arguments.videos:
        began = time.monotonic()
        data = detect(detector, path, post=arguments.post)
        (arguments.out / f"{data['name']}.json").write_text(json.dumps(data))
        print(f"{data['name']}: {len(data['frames'])} frames, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
