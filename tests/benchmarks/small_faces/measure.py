"""How many faces are found by their height in the frame, with and without tiles.

Pictures of a labelled set are pasted into frames of 1920x1080, scaled so that one face of each has a given height; the
rest of a frame is the same picture, out of focus. Only that face counts: found is any face on it (IoU 0.4), right is
one of its class.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.dataset import Sample, Truth, read_dataset
from pipeline.evaluation.looking import as_video
from pipeline.inference.detector import build_detector
from pipeline.inference.picture import read_rgb
from pipeline.inference.views import Looks, ViewingDetector
from pipeline.types import Detections

WIDTH, HEIGHT = 1920, 1080
HEIGHTS = (12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192)
LARGEST_SCALE = 1.5
"""Faces are not blown up further: their pictures would be out of focus."""
IOU_MIN = 0.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--model", default="facemask")
    parser.add_argument("--tiles", nargs="+", default=["1x1", "2x1", "2x2", "auto"])
    parser.add_argument("--overlap", type=float, default=0.15)
    parser.add_argument("--pictures", type=int, default=60, help="of each height")
    options = parser.parse_args()
    detector = build_detector(options.model)
    looks = {tiles: Looks(tiles=tiles, overlap=options.overlap) for tiles in options.tiles}
    views = {tiles: ViewingDetector(detector, look) for tiles, look in looks.items()}
    samples = read_dataset(options.dataset, detector.labels)
    table: dict[str, dict[int, list[int]]] = {tiles: {height: [0, 0, 0] for height in HEIGHTS} for tiles in views}
    for height in HEIGHTS:
        chosen = _with_faces(samples, height, options.pictures)
        for rgb, truth in chosen:
            frame, box, class_id = paste(rgb, truth, height)
            image = as_video(frame)
            for tiles, looking in views.items():
                found, right = matches(looking.detect_i420(image), box, class_id)
                counts = table[tiles][height]
                counts[0] += 1
                counts[1] += found
                counts[2] += right
        print(height, {t: [f"{c / max(table[t][height][0], 1):.2f}" for c in table[t][height][1:]] for t in views})
    for tiles, looking in views.items():
        print(
            json.dumps(
                {
                    "model": options.model,
                    "tiles": tiles,
                    "views": len(looking.views(WIDTH, HEIGHT)),
                    "smallest_face_px": looks[tiles].smallest_face(detector.card, WIDTH, HEIGHT),
                    "pictures": {h: c[0] for h, c in table[tiles].items()},
                    "found": {h: round(c[1] / c[0], 3) for h, c in table[tiles].items() if c[0]},
                    "right": {h: round(c[2] / c[0], 3) for h, c in table[tiles].items() if c[0]},
                }
            )
        )


def _with_faces(samples: Sequence[Sample], height: int, count: int) -> Iterator[tuple[NDArray[np.uint8], Truth]]:
    """Pictures with a face that needs no blowing up to be that high, always the same ones, each with that face."""
    order = random.Random(1).sample(range(len(samples)), len(samples))
    for index in order:
        sample = samples[index]
        rgb = read_rgb(sample.path)
        truth = sample.in_pixels(rgb.shape[1], rgb.shape[0])
        sides = truth.xyxy[:, 3] - truth.xyxy[:, 1]
        good = np.flatnonzero((truth.class_id >= 0) & (sides * LARGEST_SCALE >= height) & (sides >= 20))
        if len(good):
            pick = good[np.argmax(sides[good])]
            yield rgb, Truth(truth.xyxy[pick : pick + 1], truth.class_id[pick : pick + 1])
            count -= 1
        if not count:
            return


def paste(rgb: NDArray[np.uint8], truth: Truth, height: int) -> tuple[NDArray[np.uint8], NDArray[np.float64], int]:
    """A frame with ``rgb`` in it, its face ``height`` pixels high and somewhere; the face's box in it and its class."""
    scale = height / (truth.xyxy[0, 3] - truth.xyxy[0, 1])
    size = max(round(rgb.shape[1] * scale), 1), max(round(rgb.shape[0] * scale), 1)
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    blurred = cv2.resize(rgb, (WIDTH // 80, HEIGHT // 80), interpolation=cv2.INTER_AREA)
    frame = cv2.resize(blurred, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    box = truth.xyxy[0] * scale
    place = random.Random(int(box.sum() * 1000))
    wide, high = box[2] - box[0], box[3] - box[1]
    left = round(place.uniform(0, max(WIDTH - wide, 0)) - box[0])
    top = round(place.uniform(0, max(HEIGHT - high, 0)) - box[1])
    fx0, fy0, fx1, fy1 = max(left, 0), max(top, 0), min(left + size[0], WIDTH), min(top + size[1], HEIGHT)
    frame[fy0:fy1, fx0:fx1] = small[fy0 - top : fy1 - top, fx0 - left : fx1 - left]
    return np.asarray(frame, np.uint8), box + np.array([left, top, left, top]), int(truth.class_id[0])


def matches(found: Detections, box: NDArray[np.float64], class_id: int) -> tuple[bool, bool]:
    """Whether a face lies on ``box``, and whether the best of those is of that class."""
    for xyxy, label in zip(found.xyxy, found.class_id, strict=True):
        wide = min(xyxy[2], box[2]) - max(xyxy[0], box[0])
        high = min(xyxy[3], box[3]) - max(xyxy[1], box[1])
        if wide > 0 and high > 0:
            shared = wide * high
            areas = (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1]) + (box[2] - box[0]) * (box[3] - box[1])
            if shared / (areas - shared) >= IOU_MIN:
                return True, int(label) == class_id
    return False, False


if __name__ == "__main__":
    main()
