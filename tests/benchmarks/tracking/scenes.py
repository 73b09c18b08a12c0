"""Scenes with known identities: real detections linked where there is no doubt, and made-up walkers.

A scene is a list of frames ``(time_s, rows, truth)``: rows are ``[class_id, confidence, x1, y1, x2, y2]`` as a detector
that suppresses within each class gives them, truth maps a person to the box in which that person really is.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.analytics.association import Box, faces, iou
from pipeline.types import Detections

Row = list[float]
LINK_IOU = 0.5
DOUBT_IOU = 0.1
TRACKLET_MIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Frame:
    time_s: float
    rows: list[Row]
    truth: dict[int, Box]


@dataclass(frozen=True, slots=True)
class Scene:
    name: str
    frame_wh: tuple[int, int]
    frames: list[Frame]


def detections(rows: list[Row], confidence_min: float) -> Detections:
    """The rows of at least that confidence."""
    kept = [row for row in rows if row[1] >= confidence_min]
    if not kept:
        return Detections.none()
    table = np.array(kept, np.float32)
    return Detections(table[:, 2:6].copy(), table[:, 1].copy(), table[:, 0].astype(np.int32))


def recorded(path: Path) -> Scene:
    """Detections of a real video (detect.py), with runs of overlapping boxes as truth.

    Boxes of neighbouring frames are one person where they overlap by ``LINK_IOU`` and neither overlaps a second one; a
    run ends at the first doubt or miss and counts from ``TRACKLET_MIN_S`` on.
    """
    data = json.loads(path.read_text())
    runs: list[list[tuple[int, Box]]] = []
    live: list[list[tuple[int, Box]]] = []
    for index, (_, rows) in enumerate(data["frames"]):
        boxes = [face.xyxy for face in faces(detections(rows, 0.5), 2)]
        following: list[list[tuple[int, Box]]] = []
        for box in boxes:
            ancestors = [run for run in live if iou(run[-1][1], box) >= DOUBT_IOU]
            siblings = [other for other in boxes if ancestors and iou(ancestors[0][-1][1], other) >= DOUBT_IOU]
            if len(ancestors) == 1 and len(siblings) == 1 and iou(ancestors[0][-1][1], box) >= LINK_IOU:
                ancestors[0].append((index, box))
                following.append(ancestors[0])
            else:
                following.append([(index, box)])
                runs.append(following[-1])
        live = following
    truth: list[dict[int, Box]] = [{} for _ in data["frames"]]
    for person, run in enumerate(runs):
        if data["frames"][run[-1][0]][0] - data["frames"][run[0][0]][0] >= TRACKLET_MIN_S:
            for index, box in run:
                truth[index][person] = box
    frames = [Frame(time_s, rows, truth[i]) for i, (time_s, rows) in enumerate(data["frames"])]
    return Scene(data["name"], (data["wh"][0], data["wh"][1]), frames)


def walkers(seed: int, people: int = 6, duration_s: float = 20.0, fps: float = 25.0) -> Scene:
    """People walking to and fro across a 1280x720 picture at 1 to 6 face sizes a second, in front of each other.

    A face that is hidden to more than a half is not found. What is found jitters by 6 % of its size, is missed in one
    look of ten, is weak in one of seven and of the wrong class in one of ten; one look of ten holds a false face.
    """
    chance = random.Random(seed)
    width, height = 1280, 720
    state = [
        [chance.uniform(0, width), chance.uniform(200, 400), chance.uniform(40, 90), chance.choice((-1, 1)), 0.0]
        for _ in range(people)
    ]
    for person in state:
        person[3] *= person[2] * chance.uniform(1, 6)
    frames: list[Frame] = []
    for k in range(round(duration_s * fps)):
        truth: dict[int, Box] = {}
        rows: list[Row] = []
        for index, person in sorted(enumerate(state), key=lambda pair: -pair[1][2]):
            person[0] += person[3] / fps
            person[4] += chance.gauss(0, 0.3) * person[2] / fps
            if not 0 < person[0] < width or chance.random() < 0.1 / fps:
                person[3] = -person[3]
            person[0] = min(max(person[0], 0.0), float(width))
            x, y, size = person[0], person[1] + person[4], person[2]
            box = (x - size / 2, y - size / 2, x + size / 2, y + size / 2)
            if any(iou(box, nearer) > 0.33 for nearer in truth.values()):
                continue
            truth[index] = box
            if chance.random() < 0.1:
                continue
            score = chance.uniform(0.3, 0.5) if chance.random() < 0.15 else chance.uniform(0.5, 1.0)
            found = [value + chance.gauss(0, 0.06) * size for value in box]
            rows.append([float(chance.random() < 0.1), score, *found])
        if chance.random() < 0.1:
            x, y, size = chance.uniform(0, width), chance.uniform(0, height), chance.uniform(30, 90)
            rows.append([1.0, chance.uniform(0.5, 0.7), x, y, x + size, y + size])
        frames.append(Frame(k / fps, rows, truth))
    return Scene(f"walkers {seed}", (width, height), frames)
