"""Boxes on a single picture, by the same hand that draws on video."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.sinks.overlay import Overlay
from pipeline.types import I420, Detections, Layout, Track

Rgb = NDArray[np.uint8]


def annotate_rgb(image: Rgb, detections: Detections, labels: Sequence[str]) -> Rgb:
    """A copy of the (h, w, 3) RGB picture with a box and a label a face; untouched where nothing is drawn.

    The drawing goes through 4:2:0 planes as video does; only what it changed there is taken over.
    """
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    planes = cv2.cvtColor(padded, cv2.COLOR_RGB2YUV_I420)
    before = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    layout = Layout(padded.shape[1], padded.shape[0], "bt601")
    target = I420.view(planes.reshape(-1), layout)
    overlay = Overlay(layout, "", labels)
    rows = zip(detections.xyxy.tolist(), detections.confidence.tolist(), detections.class_id.tolist(), strict=True)
    for number, (xyxy, confidence, class_id) in enumerate(rows):
        overlay.draw_track(target, Track(number, class_id, confidence, tuple(xyxy), detected=True))
    after = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
    drawn = (after != before).any(axis=2, keepdims=True)
    return np.where(drawn, after, padded)[:height, :width]
