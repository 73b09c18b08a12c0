"""Augmentation: single pictures and mosaics with scale jitter towards small faces, then what cameras do to pixels.

Sample ``i`` of seed ``s`` is a pure function of ``(s, i)``, so a run that is resumed sees what it would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from .data import IGNORE, Sample
from .props import dress

Pixels = NDArray[np.uint8]
Faces = tuple[NDArray[np.float32], NDArray[np.int64]]
WEIGHTS = {
    "train_kaggle": 0.16, "train_ilc": 0.26, "train_aizoo": 0.38, "train_aditya": 0.05, "train_tfm": 0.02,
    "train_weak": 0.13, "train_video": 0.07,
}  # fmt: skip
"""How often a set is drawn; unknown sets count 1 divided by the number of sets."""
PORTRAITS = "train_weak"
"""Pictures that are mostly one face: laid on others as small ones."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Probabilities of what happens to a sample, and sizes in pixels of the input."""

    mosaic: float = 0.6
    exact: float = 0.35
    smallest_face: float = 7.0
    noise: float = 0.15
    blur: float = 0.12
    jpeg: float = 0.15
    shrink: float = 0.08
    grey: float = 0.08
    night: float = 0.05
    occlude: float = 0.15
    props: float = 0.18
    tilt: float = 0.15
    stickers: float = 0.35


class Augmenter:
    def __init__(self, samples: list[Sample], width: int, height: int, mix: Mix | None = None) -> None:
        self.samples, self.width, self.height, self.mix = samples, width, height, mix or Mix()
        names = sorted({s.set for s in samples})
        self.members = [self._balanced([i for i, s in enumerate(samples) if s.set == name]) for name in names]
        weights = np.array([WEIGHTS.get(name, 1.0 / len(names)) for name in names])
        self.weights = weights / weights.sum()
        self.portraits = np.array([i for i, s in enumerate(samples) if s.set == PORTRAITS])
        self.noise = np.random.default_rng(0).normal(0, 1, (2 * height, 2 * width, 3)).astype(np.float32)

    def __call__(self, seed: int, index: int) -> tuple[Pixels, NDArray[np.float32], NDArray[np.int64]]:
        rng = np.random.default_rng([seed, index])
        canvas = np.full((self.height, self.width, 3), rng.integers(0, 255), np.uint8)
        boxes, labels = (self._mosaic if rng.random() < self.mix.mosaic else self._single)(canvas, rng)
        if self.portraits.size and rng.random() < self.mix.stickers:
            boxes, labels = self._stick(canvas, boxes, labels, rng)
        if rng.random() < self.mix.occlude:
            self._occlude(canvas, boxes, rng)
        if rng.random() < self.mix.props:
            labels = dress(canvas, boxes, labels, rng)
        if rng.random() < self.mix.tilt:
            canvas, boxes, labels = self._tilt(canvas, boxes, labels, rng)
        canvas = self._camera(canvas, rng)
        side = np.sqrt(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(1))
        labels = np.where(side < self.mix.smallest_face, IGNORE, labels)
        return canvas, boxes, labels

    def _balanced(self, members: list[int]) -> NDArray[np.int64]:
        """Pictures with the class that is rarer in their set stand twice."""
        labels = np.concatenate([self.samples[i].labels for i in members])
        rarer = int((labels == 1).sum() < (labels == 0).sum())
        return np.array([*members, *[i for i in members if (self.samples[i].labels == rarer).any()]])

    def _draw(self, rng: np.random.Generator) -> Sample:
        group = self.members[rng.choice(len(self.members), p=self.weights)]
        number: int = group[rng.integers(len(group))]
        return self.samples[number]

    def _single(self, canvas: Pixels, rng: np.random.Generator) -> Faces:
        sample = self._draw(rng)
        h, w = sample.pixels.shape[:2]
        sx, sy = self.width / w, self.height / h
        if rng.random() >= self.mix.exact:
            zoom, aspect = np.exp(rng.uniform(-0.8, 0.6)), np.exp(rng.normal(0, 0.12))
            sx, sy = sx * zoom * aspect, sy * zoom / aspect
        sx, sy = self._limit(sample, sx, sy, rng)
        ox, oy = self._place(sample, (sx, sy), (self.width, self.height), rng)
        return self._paste(canvas, (0, 0, self.width, self.height), sample, (sx, sy, ox, oy), rng)

    def _mosaic(self, canvas: Pixels, rng: np.random.Generator) -> Faces:
        cx, cy = int(self.width * rng.uniform(0.3, 0.7)), int(self.height * rng.uniform(0.3, 0.7))
        parts = []
        for x1, y1, x2, y2 in ((0, 0, cx, cy), (cx, 0, self.width, cy), (0, cy, cx, self.height),
                               (cx, cy, self.width, self.height)):  # fmt: skip
            sample = self._draw(rng)
            h, w = sample.pixels.shape[:2]
            zoom, aspect = np.exp(rng.uniform(-0.3, 0.8)), np.exp(rng.normal(0, 0.15))
            base = max((x2 - x1) / w, (y2 - y1) / h)
            tall = (self.height / h / (self.width / w)) ** rng.uniform(0, 0.5)
            sx, sy = self._limit(sample, base * zoom * aspect / tall, base * zoom / aspect * tall, rng)
            ox, oy = self._place(sample, (sx, sy), (x2 - x1, y2 - y1), rng)
            at = (sx, sy, x1 + ox, y1 + oy)
            parts.append(self._paste(canvas, (x1, y1, x2, y2), sample, at, rng))
        return np.concatenate([boxes for boxes, _ in parts]), np.concatenate([labels for _, labels in parts])

    def _place(self, sample: Sample, scale: tuple[float, float], size: tuple[int, int],
               rng: np.random.Generator) -> tuple[float, float]:  # fmt: skip
        """Where a picture's corner goes in a region of ``size``; where it is cut, one of its faces stays in sight."""
        h, w = sample.pixels.shape[:2]
        face = sample.boxes[rng.integers(len(sample.boxes))] if len(sample.boxes) and rng.random() < 0.8 else None
        corner = []
        for axis, side in enumerate((w, h)):
            free = size[axis] - side * scale[axis]
            low, high = min(0.0, free), max(0.0, free)
            if face is not None and free < 0:
                nearest, farthest = -face[axis] * scale[axis], size[axis] - face[axis + 2] * scale[axis]
                if nearest < farthest:
                    low, high = max(low, nearest), min(high, farthest)
            corner.append(rng.uniform(low, max(low, high)))
        return corner[0], corner[1]

    def _limit(self, sample: Sample, sx: float, sy: float, rng: np.random.Generator) -> tuple[float, float]:
        """Keeps a picture's typical face from 12 pixels on, and mostly below 260."""
        if not len(sample.boxes):
            return sx, sy
        sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).clip(1).prod(1) ** 0.5
        typical = float(np.median(sides)) * (sx * sy) ** 0.5
        wanted = max(typical, 12.0)
        if typical > 260 and rng.random() < 0.7:
            wanted = float(np.exp(rng.uniform(np.log(90), np.log(320))))
        return sx * wanted / typical, sy * wanted / typical

    def _paste(self, canvas: Pixels, region: tuple[int, int, int, int], sample: Sample,
               at: tuple[float, float, float, float], rng: np.random.Generator) -> Faces:  # fmt: skip
        """Puts the picture, scaled by (sx, sy), its corner at (ox, oy), into a region; returns the visible faces."""
        x1, y1, x2, y2 = region
        sx, sy, ox, oy = at
        h, w = sample.pixels.shape[:2]
        u1, v1 = int(np.clip((x1 - ox) / sx, 0, w - 1)), int(np.clip((y1 - oy) / sy, 0, h - 1))
        u2, v2 = int(np.clip(np.ceil((x2 - ox) / sx), u1 + 1, w)), int(np.clip(np.ceil((y2 - oy) / sy), v1 + 1, h))
        crop = sample.pixels[v1:v2, u1:u2]
        size = max(1, round((u2 - u1) * sx)), max(1, round((v2 - v1) * sy))
        how = cv2.INTER_AREA if sx * sy < 1 and rng.random() < 0.7 else cv2.INTER_LINEAR
        crop = cv2.resize(crop, size, interpolation=how)
        px, py = max(x1, round(ox + u1 * sx)), max(y1, round(oy + v1 * sy))
        pw, ph = min(crop.shape[1], x2 - px), min(crop.shape[0], y2 - py)
        if pw <= 0 or ph <= 0:
            return np.empty((0, 4), np.float32), np.empty(0, np.int64)
        crop = crop[:ph, :pw]
        scale = np.array([size[0] / (u2 - u1), size[1] / (v2 - v1)] * 2)
        boxes = (sample.boxes - np.array([u1, v1, u1, v1])) * scale
        labels = sample.labels.copy()
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
            boxes[:, [0, 2]] = pw - boxes[:, [2, 0]]
        canvas[py : py + ph, px : px + pw] = crop
        inside = np.clip(boxes, 0, [pw, ph, pw, ph])
        area = (boxes[:, 2:] - boxes[:, :2]).clip(1e-3).prod(1)
        share = (inside[:, 2:] - inside[:, :2]).clip(0).prod(1) / area
        labels[share < 0.6] = IGNORE
        keep = share > 0.1
        return (inside[keep] + np.array([px, py, px, py])).astype(np.float32), labels[keep]

    def _stick(self, canvas: Pixels, boxes: NDArray[np.float32], labels: NDArray[np.int64],
               rng: np.random.Generator) -> Faces:  # fmt: skip
        """Lays a few shrunken portraits where they cover no face: small faces of many more people."""
        for _ in range(rng.integers(1, 5)):
            sample = self.samples[self.portraits[rng.integers(len(self.portraits))]]
            h, w = sample.pixels.shape[:2]
            sides = (sample.boxes[:, 2:] - sample.boxes[:, :2]).clip(1).prod(1) ** 0.5
            side = float(np.median(sides)) if len(sides) else float(w)
            aspect = np.exp(rng.normal(0, 0.15))
            sx, sy = np.exp(rng.uniform(np.log(14), np.log(90))) / side * np.array([aspect, 1 / aspect])
            pw, ph = int(w * sx), int(h * sy)
            if not (8 < pw < self.width * 0.6 and 8 < ph < self.height * 0.6):
                continue
            px, py = int(rng.integers(self.width - pw)), int(rng.integers(self.height - ph))
            apart = (boxes[:, 0] > px + pw) | (boxes[:, 2] < px) | (boxes[:, 1] > py + ph) | (boxes[:, 3] < py)
            if not apart.all():
                continue
            more = self._paste(canvas, (px, py, px + pw, py + ph), sample, (sx, sy, px, py), rng)
            boxes, labels = np.concatenate([boxes, more[0]]), np.concatenate([labels, more[1]])
        return boxes, labels

    def _tilt(self, canvas: Pixels, boxes: NDArray[np.float32], labels: NDArray[np.int64],
              rng: np.random.Generator) -> tuple[Pixels, NDArray[np.float32], NDArray[np.int64]]:  # fmt: skip
        """Turns the whole picture by up to 25 degrees. A face counts as the ellipse in its box."""
        angle = float(rng.uniform(-25, 25))
        turn = cv2.getRotationMatrix2D((self.width / 2, self.height / 2), angle, 1.0)
        corner = [int(c) for c in canvas[0, 0]]
        canvas = np.asarray(cv2.warpAffine(canvas, turn, (self.width, self.height), borderValue=corner), np.uint8)
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ turn[:, :2].T + turn[:, 2]
        half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (turn[:, :2] ** 2).T)
        turned = np.concatenate([centre - half, centre + half], 1)
        inside = np.clip(turned, 0, [self.width, self.height] * 2)
        share = (inside[:, 2:] - inside[:, :2]).prod(1) / np.maximum((turned[:, 2:] - turned[:, :2]).prod(1), 1e-3)
        keep = share > 0.1
        return canvas, inside[keep].astype(np.float32), np.where(share < 0.6, IGNORE, labels)[keep]

    def _occlude(self, canvas: Pixels, boxes: NDArray[np.float32], rng: np.random.Generator) -> None:
        """Covers a part of some faces with a piece of the same picture, as passers-by, poles and hands do."""
        for x1, y1, x2, y2 in boxes[rng.random(len(boxes)) < 0.3]:
            w, h = max(2, int((x2 - x1) * rng.uniform(0.25, 0.5))), max(2, int((y2 - y1) * rng.uniform(0.2, 0.4)))
            w, h = min(w, self.width // 2), min(h, self.height // 2)
            x = int(np.clip(rng.uniform(x1 - w / 2, x2 - w / 2), 0, self.width - w))
            y = int(np.clip(rng.uniform(y1 - h / 2, y2 - h / 2), 0, self.height - h))
            u, v = rng.integers(self.width - w), rng.integers(self.height - h)
            canvas[y : y + h, x : x + w] = canvas[v : v + h, u : u + w].copy()

    def _camera(self, canvas: Pixels, rng: np.random.Generator) -> Pixels:
        mix = self.mix
        canvas = self._tones(canvas, rng)
        if rng.random() < mix.shrink:
            factor = rng.uniform(0.45, 0.8)
            small = cv2.resize(canvas, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
            canvas = np.asarray(cv2.resize(small, (self.width, self.height), interpolation=cv2.INTER_LINEAR), np.uint8)
        if rng.random() < mix.blur:
            canvas = self._blur(canvas, rng)
        night = rng.random() < mix.night
        if night or rng.random() < mix.noise:
            v, u = rng.integers(self.height), rng.integers(self.width)
            noise = self.noise[v : v + self.height, u : u + self.width] * rng.uniform(3, 18 if night else 10)
            canvas = np.asarray(cv2.add(canvas, noise, dtype=cv2.CV_8U), np.uint8)
        if rng.random() < mix.jpeg:
            _, coded = cv2.imencode(".jpg", canvas, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 80))])
            canvas = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
        return canvas

    def _tones(self, canvas: Pixels, rng: np.random.Generator) -> Pixels:
        """Gamma, contrast, brightness and a tint by one table a channel; sometimes grey, sometimes dark."""
        ramp = np.arange(256, dtype=np.float32) / 255
        gamma, contrast = np.exp(rng.normal(0, 0.25)), np.exp(rng.normal(0, 0.2))
        tint = np.exp(rng.normal(0, 0.07, 3))
        light = rng.normal(0, 0.06)
        table = (ramp[:, None] ** gamma - 0.45) * contrast * tint + 0.45 + light
        if rng.random() < self.mix.night:
            table = table * rng.uniform(0.3, 0.6)
        table = np.clip(table * 255, 0, 255).astype(np.uint8)
        if rng.random() < self.mix.grey:
            canvas = np.repeat(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
            table = np.repeat(table[:, :1], 3, 1)
        return np.asarray(cv2.LUT(canvas, np.ascontiguousarray(table[None])), np.uint8)

    def _blur(self, canvas: Pixels, rng: np.random.Generator) -> Pixels:
        if rng.random() < 0.5:
            return np.asarray(cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 1.6)), np.uint8)
        length = int(rng.integers(3, 8))
        kernel = np.zeros((length, length), np.float32)
        angle, middle = rng.uniform(0, np.pi), (length - 1) / 2
        for t in np.linspace(-middle, middle, 3 * length):
            kernel[round(middle + t * np.sin(angle)), round(middle + t * np.cos(angle))] = 1
        return np.asarray(cv2.filter2D(canvas, -1, kernel / kernel.sum()), np.uint8)


Batch = tuple[Tensor, Tensor, Tensor]


class Stream(IterableDataset[Batch]):
    """Batches from ``first`` on, shared out among the loader's workers.

    Pixels (n, 3, h, w) uint8 in channels-last order, boxes (g, 5) picture index and xyxy, labels (g,).
    """

    def __init__(self, augmenter: Augmenter, seed: int, batch: int, first: int, last: int) -> None:
        self.augmenter, self.seed, self.batch, self.first, self.last = augmenter, seed, batch, first, last

    def __iter__(self) -> Iterator[Batch]:
        worker = torch.utils.data.get_worker_info()
        start, step = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(self.first + start, self.last, step):
            made = [self.augmenter(self.seed, number * self.batch + i) for i in range(self.batch)]
            boxes = [np.insert(boxes, 0, i, axis=1) for i, (_, boxes, _) in enumerate(made)]
            yield (
                torch.from_numpy(np.stack([pixels for pixels, _, _ in made])).permute(0, 3, 1, 2),
                torch.from_numpy(np.concatenate(boxes).astype(np.float32)),
                torch.from_numpy(np.concatenate([labels for _, _, labels in made])),
            )
