"""One small labelled data set in each format that is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

WIDTH, HEIGHT = 80, 60
FACES = [((10, 20, 30, 44), "with_mask"), ((40, 0, 60, 30), "without_mask")]
DOUBTFUL = (62, 30, 78, 58)
XML = "<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def write_picture(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    cv2.imwrite(str(path), pixels)


def coco_content() -> dict[str, Any]:
    """Two pictures; the second has no face."""
    boxes = [*FACES, (DOUBTFUL, "with_mask")]
    return {
        "categories": [{"id": 5, "name": "with_mask"}, {"id": 7, "name": "without_mask"}],
        "images": [{"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT} for n in (1, 2)],
        "annotations": [
            {
                "image_id": 1,
                "category_id": 5 if name == "with_mask" else 7,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "ignore": int((x1, y1, x2, y2) == DOUBTFUL),
            }
            for (x1, y1, x2, y2), name in boxes
        ],
    }


def write_coco(folder: Path, content: dict[str, Any] | None = None) -> Path:
    for n in (1, 2):
        write_picture(folder / "images" / f"{n}.png", n)
    (folder / "annotations.json").write_text(json.dumps(content or coco_content()))
    return folder


def voc_xml(objects: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"


def voc_object(corners: tuple[int, ...], name: str, difficult: int = 0) -> str:
    named = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in named)
    return XML.format(name=name, difficult=difficult, corners=inside)


def write_voc(folder: Path) -> Path:
    for n in (1, 2):
        write_picture(folder / "JPEGImages" / f"{n}.jpg", n)
    (folder / "Annotations").mkdir(exist_ok=True)
    objects = "".join(voc_object(box, name) for box, name in FACES) + voc_object(DOUBTFUL, "with_mask", 1)
    (folder / "Annotations" / "1.xml").write_text(voc_xml(objects))
    (folder / "Annotations" / "2.xml").write_text(voc_xml(""))
    return folder


def write_yolo(folder: Path) -> Path:
    """YOLO has no way to say that a face is to be ignored but a class of that name."""
    for n in (1, 2):
        write_picture(folder / "images" / f"{n}.png", n)
    lines = []
    for (x1, y1, x2, y2), number in [*((b, i) for i, (b, _) in enumerate(FACES)), (DOUBTFUL, 2)]:
        values = ((x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT)
        lines.append(f"{number} " + " ".join(f"{value:.8f}" for value in values))
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "1.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("with_mask\nwithout_mask\nmask_weared_incorrect\n")
    return folder
