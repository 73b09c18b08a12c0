"""Average precision of a network over pictures, by the evaluation protocol (per-class suppression, IoU 0.5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .boxes import Floats, Truth, curve, detect, squash
from .data import Sample, read_coco, read_rgb
from .network import Architecture, Deployed, FaceMaskNet, Head, anchor_points

Infer = Callable[[NDArray[np.uint8]], tuple[Floats, Floats]]
"""One picture at the input's size -> offsets (a, 4), scores (a, c)."""


def priors(architecture: Architecture) -> Floats:
    """(a, 4) centre and size in 0..1 of the input."""
    points = anchor_points(architecture).numpy()
    size = np.array([architecture.width, architecture.height], np.float32)
    return np.asarray(np.concatenate([points[:, :2] / size, points[:, 2:3] / size], 1), np.float32)


def with_torch(network: FaceMaskNet) -> Infer:
    deployed = Deployed(network).eval()

    @torch.inference_mode()
    def infer(picture: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        offsets, scores = deployed(tensor)
        return offsets[0].numpy(), scores[0].numpy()

    return infer


def with_onnx(path: Path) -> Infer:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name

    def infer(picture: NDArray[np.uint8]) -> tuple[Floats, Floats]:
        tensor = picture.transpose(2, 0, 1)[None].astype(np.float32) / 255
        offsets, scores = session.run(["boxes", "scores"], {name: tensor})
        return offsets[0], scores[0]

    return infer


def truths_of(folder: Path) -> tuple[list[Truth], list[NDArray[np.uint8]]]:
    truths, pictures = [], []
    for file, width, height, boxes, labels in read_coco(folder):
        pictures.append(read_rgb(folder / "images" / file))
        truths.append(Truth(boxes, labels, width, height))
    return truths, pictures


def truths_in(samples: list[Sample]) -> tuple[list[Truth], list[NDArray[np.uint8]]]:
    truths = [Truth(s.boxes, s.labels, s.pixels.shape[1], s.pixels.shape[0]) for s in samples]
    return truths, [s.pixels for s in samples]


def score(
    infer: Infer, architecture: Architecture, truths: list[Truth], pictures: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """mAP, its two classes, faces of any class, and mAP of faces from 5 % on and at IoU 0.4."""
    found = detections(infer, architecture, truths, pictures)

    def precision(label: int | None, iou_min: float = 0.5, side_min: float = 0.0) -> float:
        return curve(truths, found, label, iou_min, side_min).average_precision()

    return {
        "mAP": (precision(0) + precision(1)) / 2,
        "Mask": precision(0),
        "NoMask": precision(1),
        "face": precision(None),
        "mAP >=5%": (precision(0, 0.5, 0.05) + precision(1, 0.5, 0.05)) / 2,
        "mAP IoU0.4": (precision(0, 0.4) + precision(1, 0.4)) / 2,
    }


def detections(
    infer: Infer, architecture: Architecture, truths: list[Truth], pictures: list[NDArray[np.uint8]]
) -> list[Floats]:
    """What is found in each picture, (n, 6) class, score, xyxy pixels."""
    anchors = priors(architecture)
    found = []
    for truth, picture in zip(truths, pictures, strict=True):
        rows = detect(*infer(squash(picture, architecture.width, architecture.height)), anchors)
        rows[:, 2:] *= np.array([truth.width, truth.height] * 2, np.float32)
        found.append(rows)
    return found


def calibrate(network: FaceMaskNet, truths: list[Truth], pictures: list[NDArray[np.uint8]]) -> list[float]:
    """Moves each class's logits so that the curve's ``threshold`` is at a score of 0.5; returns where it was.

    The order of detections within a class, and so AP, stays as it was.
    """
    found = detections(with_torch(network), network.architecture, truths, pictures)
    best = [curve(truths, found, label).threshold() for label in range(network.architecture.classes)]
    with torch.no_grad():
        for head in network.heads:
            assert isinstance(head, Head)
            assert head.scores.bias is not None
            head.scores.bias -= torch.logit(torch.tensor(best))
    return best
