"""The training pictures: COCO JSON sets, decoded once into one flat file so that no epoch decodes a JPEG again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from .boxes import iou_matrix, nms, ssd_decode
from .teacher import Aizoo, anchors

IGNORE = -1
SETS = ("train_kaggle", "train_ilc", "train_aizoo", "train_aditya", "train_tfm", "train_weak")
HELD_OUT = {"train_kaggle": 20, "train_ilc": 80, "train_aizoo": 60, "train_aditya": 10}
"""How many pictures of a set are kept for choosing among models, by the hash of their names."""


@dataclass(slots=True)
class Sample:
    """One picture with its faces.

    boxes: (n, 4) float32 xyxy pixels. labels: (n,) int64; ``IGNORE`` counts neither way. guesses: (n, 6) float32 class,
    score, xyxy of the teacher.
    """

    set: str
    file: str
    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    guesses: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 6), np.float32))


def read_coco(folder: Path) -> list[tuple[str, int, int, NDArray[np.float32], NDArray[np.int64]]]:
    """(file name, width, height, boxes xyxy, labels) of every picture of one set, in the file's order."""
    coco = json.loads((folder / "annotations.json").read_text())
    faces: dict[int, list[Any]] = {image["id"]: [] for image in coco["images"]}
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        label = IGNORE if annotation.get("ignore") else annotation["category_id"]
        faces[annotation["image_id"]].append((x, y, x + w, y + h, label))
    found = []
    for image in coco["images"]:
        table = np.array(faces[image["id"]], np.float32).reshape(-1, 5)
        found.append((image["file_name"], image["width"], image["height"], table[:, :4], table[:, 4].astype(np.int64)))
    return found


def read_rgb(path: Path) -> NDArray[np.uint8]:
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"{path} is no picture that can be read")
    return np.ascontiguousarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def prepare(data: Path, cache: Path, sets: tuple[str, ...], teacher: Path | None, longest: int = 640) -> None:
    """Decodes every picture into ``cache/pixels.u8`` and writes ``cache/index.json``; notes what the teacher finds."""
    cache.mkdir(parents=True, exist_ok=True)
    network = Aizoo.load(teacher) if teacher else None
    priors = anchors(360)
    index: list[dict[str, Any]] = []
    offset = 0
    with (cache / "pixels.u8.part").open("wb") as out:
        for name in sets:
            for file, width, height, boxes, labels in read_coco(data / name):
                picture = read_rgb(data / name / "images" / file)
                scale = min(1.0, longest / max(picture.shape[:2]))
                if scale < 1:
                    picture = np.asarray(
                        cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8
                    )
                h, w = picture.shape[:2]
                guesses = np.empty((0, 6), np.float32) if network is None else ask(network, priors, picture)
                index.append(
                    {
                        "set": name, "file": file, "offset": offset, "width": w, "height": h,
                        "boxes": (boxes * np.array([w / width, h / height] * 2, np.float32)).tolist(),
                        "labels": labels.tolist(), "guesses": guesses.tolist(),
                    }
                )  # fmt: skip
                out.write(picture.tobytes())
                offset += picture.size
    (cache / "pixels.u8.part").rename(cache / "pixels.u8")
    (cache / "index.json").write_text(json.dumps(index))


@torch.inference_mode()
def ask(network: Aizoo, priors: NDArray[np.float32], picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, 6) class, score, xyxy in pixels: what the 360-pixel AIZOO network sees."""
    small = cv2.resize(picture, (360, 360), interpolation=cv2.INTER_LINEAR)
    tensor = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255
    offsets, scores = (x[0].numpy() for x in network(tensor))
    best = scores.max(1)
    keep = np.where(best >= 0.3)[0]
    boxes = ssd_decode(offsets[keep], priors[keep])
    order = nms(boxes, best[keep], 0.4)
    height, width = picture.shape[:2]
    boxes = boxes[order] * np.array([width, height, width, height], np.float32)
    return np.column_stack([scores[keep][order].argmax(1), best[keep][order], boxes]).astype(np.float32)


def load(cache: Path) -> list[Sample]:
    """Every picture of the cache; the pixels stay on disk until they are touched."""
    pixels = np.memmap(cache / "pixels.u8", np.uint8, "r")
    samples = []
    for entry in json.loads((cache / "index.json").read_text()):
        h, w, start = entry["height"], entry["width"], entry["offset"]
        samples.append(
            Sample(
                entry["set"], entry["file"], pixels[start : start + h * w * 3].reshape(h, w, 3),
                np.array(entry["boxes"], np.float32).reshape(-1, 4), np.array(entry["labels"], np.int64),
                np.array(entry["guesses"], np.float32).reshape(-1, 6),
            )
        )  # fmt: skip
    return samples


def difference_hash(picture: NDArray[np.uint8], flip: bool = False) -> NDArray[np.bool_]:
    """256 bits: is a pixel of the 16x17 thumbnail brighter than its right neighbour."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey[:, ::-1] if flip else grey, (17, 16), interpolation=cv2.INTER_AREA).astype(np.int16)
    return np.asarray(small[:, 1:] > small[:, :-1]).reshape(-1)


def apart(samples: list[Sample], folders: list[Path], bits: int = 30) -> list[Sample]:
    """The samples that are no near-duplicate, mirrored or not, of any picture in the folders of evaluation sets."""
    if not folders:
        return samples
    pictures = [read_rgb(folder / "images" / file) for folder in folders for file, *_ in read_coco(folder)]
    kept_away = np.stack([difference_hash(p, flip) for p in pictures for flip in (False, True)])
    distance = [int((kept_away != difference_hash(s.pixels)).sum(1).min()) for s in samples]
    return [s for s, d in zip(samples, distance, strict=True) if d > bits]


def convention_offsets(samples: list[Sample]) -> dict[str, NDArray[np.float32]]:
    """By set, the median of (teacher - label) / label's side for x1, y1, x2, y2: how its boxes differ from AIZOO's."""
    collected: dict[str, list[NDArray[np.float32]]] = {}
    for sample in samples:
        guesses = sample.guesses[sample.guesses[:, 1] >= 0.6, 2:]
        if not len(guesses) or not len(sample.boxes):
            continue
        overlap = iou_matrix(sample.boxes, guesses)
        for i, j in enumerate(overlap.argmax(1)):
            if overlap[i, j] >= 0.45 and sample.labels[i] != IGNORE:
                x1, y1, x2, y2 = sample.boxes[i]
                side = np.array([x2 - x1, y2 - y1] * 2, np.float32)
                collected.setdefault(sample.set, []).append((guesses[j] - sample.boxes[i]) / side)
    return {name: np.median(np.stack(rows), 0).astype(np.float32) for name, rows in collected.items()}


def refine(samples: list[Sample], towards: dict[str, float]) -> None:
    """Brings boxes towards AIZOO's convention and turns faces that only the teacher sees into ignored ones.

    towards: by set, how much of the median difference is taken away (1: all of it). Sets without it stay as they are.
    """
    offsets = convention_offsets(samples)
    for sample in samples:
        if sample.set in towards and sample.set in offsets and len(sample.boxes):
            side = np.tile(sample.boxes[:, 2:] - sample.boxes[:, :2], 2)
            sample.boxes = sample.boxes + side * offsets[sample.set] * towards[sample.set]
        extra = sample.guesses[sample.guesses[:, 1] >= 0.4, 2:]
        if len(extra) and len(sample.boxes):
            extra = extra[iou_matrix(extra, sample.boxes).max(1) < 0.25]
        if len(extra):
            sample.boxes = np.concatenate([sample.boxes, extra]).astype(np.float32)
            sample.labels = np.concatenate([sample.labels, np.full(len(extra), IGNORE, np.int64)])


def by_hash(samples: list[Sample], name: str) -> list[Sample]:
    """Those of one set, in an order that has to do with nothing."""
    return sorted((s for s in samples if s.set == name), key=lambda s: hashlib.sha256(s.file.encode()).hexdigest())


def split(samples: list[Sample]) -> tuple[list[Sample], list[Sample]]:
    """(to train on, held out): the same pictures every time, by the hash of their names."""
    held: set[tuple[str, str]] = set()
    for name, count in HELD_OUT.items():
        ordered = by_hash(samples, name)
        held |= {(name, s.file) for s in ordered[: min(count, len(ordered) // 4)]}
    kept = [s for s in samples if (s.set, s.file) not in held]
    return kept, [s for s in samples if (s.set, s.file) in held]


def share(samples: list[Sample], part: float) -> list[Sample]:
    """``part`` of every set, the same pictures every time; a smaller part is contained in a larger one."""
    chosen: set[tuple[str, str]] = set()
    for name in {s.set for s in samples}:
        ordered = by_hash(samples, name)
        chosen |= {(name, s.file) for s in ordered[: max(1, round(part * len(ordered)))]}
    return [s for s in samples if (s.set, s.file) in chosen]
