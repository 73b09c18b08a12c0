"""Pictures of videos with boxes by the teacher, as one more COCO set: faces in motion, and scenes with nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from .data import ask
from .teacher import Aizoo, anchors

SURE = 0.6
"""From this score on the teacher's box is a face; what it is less sure of counts neither way."""


def write_set(videos: list[Path], label: int | None, every: int, teacher: Path, out: Path) -> int:
    """Adds each ``every``-th frame to the set in ``out`` (made where it is not there); returns how many faces it has.

    label: the class of all faces in these videos, which whoever names them must know: the teacher says only where they
    are. None: nobody's face counts, and what the teacher does not see is background.
    """
    network, priors = Aizoo.load(teacher), anchors(360)
    listed = out / "annotations.json"
    coco: dict[str, Any] = json.loads(listed.read_text()) if listed.exists() else {"images": [], "annotations": []}
    (out / "images").mkdir(parents=True, exist_ok=True)
    for video in videos:
        for number, picture in taken(video, every):
            name, picture_id = f"{video.stem}-{number}.png", len(coco["images"])
            cv2.imwrite(str(out / "images" / name), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            height, width = picture.shape[:2]
            coco["images"].append({"id": picture_id, "file_name": name, "width": width, "height": height})
            for _, score, x1, y1, x2, y2 in ask(network, priors, picture).tolist():
                coco["annotations"].append(
                    {
                        "image_id": picture_id, "bbox": [x1, y1, x2 - x1, y2 - y1], "category_id": label or 0,
                        "ignore": int(label is None or score < SURE),
                    }
                )  # fmt: skip
    listed.write_text(json.dumps(coco))
    return sum(not annotation["ignore"] for annotation in coco["annotations"])


def taken(video: Path, every: int) -> list[tuple[int, NDArray[np.uint8]]]:
    """Number and RGB pixels of each ``every``-th frame."""
    with av.open(str(video)) as container:
        frames = enumerate(container.decode(video=0))
        return [(i, np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)) for i, frame in frames if i % every == 0]
