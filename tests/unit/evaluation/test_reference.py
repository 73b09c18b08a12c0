"""Our figures against those that another tool computed from another implementation's detections."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.evaluation.coco_ap import map50_95
from pipeline.evaluation.dataset import read_dataset
from pipeline.evaluation.figures import figures
from pipeline.evaluation.looking import look
from pipeline.evaluation.matching import Looked, iou
from pipeline.inference.detector import build_detector
from pipeline.inference.ssd import Nms
from pipeline.types import Detections
from tests.shared_data import shared

LABELS = ("mask", "no_mask")
CASES = [
    (name, size, nms)
    for name in ("eval_public", "aizoo_val")
    for size in (260, 360)
    for nms in ("per_class", "agnostic")
]  # fmt: skip


def reference(name: str, size: int, nms: str, kind: str = "") -> Any:
    file = f"{name}__pth{size}__{nms.replace('_', '')}{kind}.json"
    return json.loads(shared(f"eval/reference_predictions/{file}").read_text())


def reference_detections(name: str, size: int, nms: str) -> list[Looked]:
    """The reference's detections beside the labels, as our detector's would be."""
    folder = shared(f"eval/{name}")
    images = json.loads((folder / "annotations.json").read_text())["images"]
    rows = defaultdict(list)
    for row in reference(name, size, nms):
        x, y, width, height = row["bbox"]
        rows[row["image_id"]].append((x, y, x + width, y + height, row["score"], row["category_id"]))
    pictures = []
    for image, sample in zip(images, read_dataset(folder, LABELS), strict=True):
        of_picture = np.array(rows[image["id"]], np.float32).reshape(-1, 6)
        found = Detections(of_picture[:, :4], of_picture[:, 4], of_picture[:, 5].astype(np.int32))
        size_px = (image["width"], image["height"])
        pictures.append(Looked(sample.in_pixels(*size_px), found, *size_px))
    return pictures


@pytest.mark.parametrize(("name", "size", "nms"), CASES)
def test_the_same_detections_give_the_same_figures(name: str, size: int, nms: str) -> None:
    ours = figures(reference_detections(name, size, nms), LABELS, 0.5)
    theirs = reference(name, size, nms, ".metrics")
    close = 5e-4  # scores of four digits are often equal, and the order of equals is not told
    assert ours["map50"] == pytest.approx(theirs["full"]["mAP"], abs=close)
    assert ours["map50_min5"] == pytest.approx(theirs["min5"]["mAP"], abs=close)
    assert ours["map40"] == pytest.approx(theirs["iou40"]["mAP"], abs=close)
    assert ours["face_ap50"] == pytest.approx(theirs["face"]["face"]["AP"], abs=close)
    for label, name_there in zip(LABELS, ("Mask", "NoMask"), strict=True):
        there = theirs["full"][name_there]
        assert ours["faces"][label] == there["npos"]
        assert ours["ap50"][label] == pytest.approx(there["AP"], abs=close)
        assert ours["at_threshold"][label]["precision"] == pytest.approx(there["P"], abs=close)
        assert ours["at_threshold"][label]["recall"] == pytest.approx(there["R"], abs=close)
        assert ours["best_threshold"][label]["f1"] == pytest.approx(there["bestF1"], abs=close)
        assert ours["best_threshold"][label]["confidence_min"] == pytest.approx(there["bestF1_thr"], abs=1e-6)


def test_coco_s_figure_at_one_overlap_is_ours() -> None:
    pytest.importorskip("pycocotools")
    pictures = reference_detections("aizoo_val", 360, "per_class")
    ten_overlaps = map50_95(pictures, len(LABELS))
    assert ten_overlaps is not None
    # boxes are seldom exact here: far below the figure at an overlap of 0.5, but well above nothing
    assert 0.3 < ten_overlaps < figures(pictures, LABELS, 0.5)["map50"]


@pytest.mark.parametrize("nms", ["per_class", "agnostic"])
def test_our_detector_finds_what_the_reference_found(nms: Nms, models_dir: Path) -> None:
    """The first pictures, detection by detection."""
    count = 40
    detector = build_detector(
        "aizoo-260", confidence_min=0.05, nms=nms, models_dir=models_dir, cross_class_iou_max=1.0, resize="bilinear"
    )
    samples = read_dataset(shared("eval/eval_public"), detector.labels)[:count]
    (ours,) = look(detector, samples, in_flight=2)
    detector.close()
    theirs = reference_detections("eval_public", 260, nms)[:count]
    missing = total = 0
    for our, their in zip(ours, theirs, strict=True):
        same = our.found.class_id[:, None] == their.found.class_id
        same &= np.abs(our.found.confidence[:, None] - their.found.confidence) < 0.01
        same &= iou(our.found.xyxy.astype(np.float64), their.found.xyxy.astype(np.float64)) > 0.85
        clear = their.found.confidence > 0.06  # not those that a rounding may take below the threshold
        total += int(clear.sum())
        missing += int((~same.any(axis=0))[clear].sum())
    assert total > 150
    assert missing <= 0.02 * total
    difference = figures(ours, LABELS, 0.5)["map50"] - figures(theirs, LABELS, 0.5)["map50"]
    assert abs(difference) <= 0.005
