"""What people hold or wear before the mouth, painted on bare faces.

A mask changes the class; one below the chin, a hand, a telephone or a microphone does not.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
SMALLEST = 18
"""Pixels of a face's shorter side from which on a prop can be told apart."""
FABRICS = ((235, 238, 240), (150, 190, 215), (95, 150, 190), (40, 42, 48), (120, 120, 125), (200, 60, 70))


def mask(canvas: Pixels, box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Paints a mask over the lower half of the face in ``box`` (xyxy pixels), in its own light."""
    turn, nose, chin = rng.uniform(-0.14, 0.14), rng.uniform(0.36, 0.5), rng.uniform(0.92, 1.02)
    ear = nose + rng.uniform(0.02, 0.12)
    outline = np.array(
        [[0.08, ear], [0.5 + turn, nose], [0.92, ear], [0.84, 0.82], [0.5 + turn / 2, chin], [0.16, 0.82]]
    )
    patch, inside, points = _cut(canvas, box, outline)
    if not patch.size:
        return
    light = cv2.GaussianBlur(patch, (0, 0), max(1.0, patch.shape[1] / 8)).mean(2, keepdims=True)
    light = 0.6 + 0.4 * light / max(1.0, float(light.max()))
    cloth = np.empty(patch.shape, np.float32)
    cloth[:] = FABRICS[rng.integers(len(FABRICS))] if rng.random() < 0.7 else rng.uniform(0, 255, 3)
    if rng.random() < 0.25:
        cloth = 0.5 * cloth + 0.5 * _elsewhere(canvas, patch.shape, rng)
    cloth = cloth * light * rng.uniform(0.75, 1.05)
    if rng.random() < 0.4:
        for share in (0.35, 0.55, 0.75):
            row = int(patch.shape[0] * share)
            cloth[row : row + max(1, patch.shape[0] // 30)] *= 0.85
    patch[inside] = np.clip(cloth, 0, 255).astype(np.uint8)[inside]
    if rng.random() < 0.6:
        x1, y1, x2, _ = box
        colour = [int(c) for c in cloth.reshape(-1, 3).mean(0)]
        for corner, side in ((points[0], x1), (points[2], x2)):
            end = (int(side), int(y1 + (box[3] - y1) * rng.uniform(0.3, 0.45)))
            cv2.line(canvas, (int(corner[0]), int(corner[1])), end, colour, max(1, int((x2 - x1) / 40)), cv2.LINE_AA)


def lowered(canvas: Pixels, box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """A mask below the chin, on its way up or down: what is above it is a bare face, and it is none itself."""
    down = (box[3] - box[1]) * rng.uniform(0.45, 1.0)
    mask(canvas, box + np.array([0, down, 0, down], np.float32), rng)


def hand(canvas: Pixels, box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Three or four fingers of the face's own colour across the mouth."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    cheek = canvas[int(y1 + 0.2 * h) : int(y1 + 0.5 * h), int(x1 + 0.3 * w) : int(x1 + 0.7 * w)]
    if not cheek.size:
        return
    skin = np.median(cheek.reshape(-1, 3), 0) * rng.uniform(0.8, 1.1)
    angle = rng.uniform(-0.7, 0.7) + (np.pi if rng.random() < 0.5 else 0.0)
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    middle = np.array([x1 + w * rng.uniform(0.4, 0.6), y1 + h * rng.uniform(0.66, 0.82)])
    thick = w * rng.uniform(0.1, 0.15)
    for finger in range(int(rng.integers(3, 5))):
        at = middle + across * thick * 1.05 * (finger - 1.5)
        tip, root = at - along * w * rng.uniform(0.25, 0.4), at + along * w * rng.uniform(0.4, 0.7)
        colour = [int(c) for c in np.clip(skin * rng.uniform(0.88, 1.05), 0, 255)]
        _line(canvas, tip, root, colour, thick)


def telephone(canvas: Pixels, box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """A dark or bright slab over the mouth or along the cheek."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    centre = (float(x1 + w * rng.uniform(0.15, 0.85)), float(y1 + h * rng.uniform(0.6, 0.95)))
    size = (float(w * rng.uniform(0.25, 0.4)), float(w * rng.uniform(0.5, 0.75)))
    corners = cv2.boxPoints((centre, size, float(rng.uniform(-70, 70))))
    grey = float(rng.choice([20, 40, 60, 200, 230]))
    colour = [int(np.clip(grey + c, 0, 255)) for c in rng.normal(0, 8, 3)]
    cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA)


def microphone(canvas: Pixels, box: NDArray[np.float32], rng: np.random.Generator) -> None:
    """A round head before the chin, its stem leading down and out."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    head = np.array([x1 + w * rng.uniform(0.35, 0.65), y1 + h * rng.uniform(0.78, 0.98)])
    colour = [int(c) for c in np.clip(rng.choice([25, 50, 110]) + rng.normal(0, 8, 3), 0, 255)]
    stem = head + np.array([w * rng.uniform(-0.5, 0.5), h * rng.uniform(0.4, 0.8)])
    _line(canvas, head, stem, colour, w * 0.09)
    radius = max(2, int(w * rng.uniform(0.1, 0.16)))
    cv2.circle(canvas, (int(head[0]), int(head[1])), radius, colour, -1, cv2.LINE_AA)


def dress(canvas: Pixels, boxes: NDArray[np.float32], labels: NDArray[np.int64],
          rng: np.random.Generator, bare: int = 1, masked: int = 0) -> NDArray[np.int64]:  # fmt: skip
    """Paints a prop on every second bare face that is large enough; returns the labels as they are then."""
    labels = labels.copy()
    for i in np.flatnonzero(labels == bare):
        if (boxes[i, 2:] - boxes[i, :2]).min() < SMALLEST or rng.random() < 0.5:
            continue
        prop = (mask, lowered, hand, telephone, microphone)[rng.choice(5, p=[0.35, 0.2, 0.2, 0.12, 0.13])]
        prop(canvas, boxes[i], rng)
        if prop is mask:
            labels[i] = masked
    return labels


def _cut(canvas: Pixels, box: NDArray[np.float32], outline: Points) -> tuple[Pixels, NDArray[np.bool_], Points]:
    """The part of the canvas round an outline (shares of the box), which of its pixels lie inside, and the points."""
    points = outline * (box[2:] - box[:2]) + box[:2]
    height, width = canvas.shape[:2]
    u1, v1 = np.clip(np.floor(points.min(0)), 0, [width, height]).astype(int)
    u2, v2 = np.clip(np.ceil(points.max(0)), 0, [width, height]).astype(int)
    patch = canvas[v1:v2, u1:u2]
    inside = np.zeros(patch.shape[:2], np.uint8)
    if patch.size:
        cv2.fillPoly(inside, [np.round(points - [u1, v1]).astype(np.int32)], 1)
    return patch, inside.astype(bool), points


def _elsewhere(canvas: Pixels, shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """A piece of the same picture of the given shape, for a pattern."""
    v, u = rng.integers(canvas.shape[0] - shape[0] + 1), rng.integers(canvas.shape[1] - shape[1] + 1)
    return canvas[v : v + shape[0], u : u + shape[1]].copy()


def _line(canvas: Pixels, a: Points, b: Points, colour: list[int], thick: float) -> None:
    ends = [(int(p[0]), int(p[1])) for p in (a, b)]
    cv2.line(canvas, ends[0], ends[1], colour, max(1, int(thick)), cv2.LINE_AA)
