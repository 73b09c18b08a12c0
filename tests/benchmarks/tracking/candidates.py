"""Trackers behind one call: ``update(time_s, detections) -> [(id, box)]`` of the faces found in that look.

Libraries are imported by name, so that only the measured one is loaded; they are installed beside, not with, the
project (README.md). Each gets its defaults but for what the rate of looks demands and for one frame of confirmation
less where it can be asked for, and faces merged over the classes as our own does it itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analytics.association import Box, Face, faces
from pipeline.analytics.tracking import Tracker
from pipeline.types import Detections

Update = Callable[[float, Detections], list[tuple[int, Box]]]
KEPT_S = 2.0


def _box(values: Any) -> Box:
    x1, y1, x2, y2 = (float(value) for value in values)
    return x1, y1, x2, y2


def _table(found: list[Face]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    boxes = np.array([face.xyxy for face in found], np.float32).reshape(-1, 4)
    return boxes, np.array([face.confidence for face in found], np.float32)


def own(frame_wh: tuple[int, int], _fps: float) -> Update:
    tracker = Tracker(2)

    def update(time_s: float, detections: Detections) -> list[tuple[int, Box]]:
        return [(track.id, track.xyxy) for track in tracker.update(time_s, detections, frame_wh) if track.detected]

    return update


def supervision_bytetrack(_frame_wh: tuple[int, int], fps: float) -> Update:
    sv = importlib.import_module("supervision")
    tracker = sv.ByteTrack(track_activation_threshold=0.5, lost_track_buffer=round(KEPT_S * 30), frame_rate=round(fps))

    def update(_time_s: float, detections: Detections) -> list[tuple[int, Box]]:
        boxes, scores = _table(faces(detections, 2))
        given = sv.Detections(xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), int))
        tracked = tracker.update_with_detections(given)
        return [(int(i), _box(box)) for i, box in zip(tracked.tracker_id, tracked.xyxy, strict=True)]

    return update


def _roboflow(name: str, **thresholds: float) -> Callable[[tuple[int, int], float], Update]:
    def make(_frame_wh: tuple[int, int], fps: float) -> Update:
        sv = importlib.import_module("supervision")
        tracker = getattr(importlib.import_module("trackers"), name)(
            lost_track_buffer=round(KEPT_S * 30), frame_rate=fps, minimum_consecutive_frames=2, **thresholds
        )

        def update(_time_s: float, detections: Detections) -> list[tuple[int, Box]]:
            boxes, scores = _table(faces(detections, 2))
            given = sv.Detections(xyxy=boxes, confidence=scores, class_id=np.zeros(len(boxes), int))
            tracked = tracker.update(given)
            ids = [] if tracked.tracker_id is None else tracked.tracker_id
            return [(int(i), _box(box)) for i, box in zip(ids, tracked.xyxy, strict=True) if i >= 0]

        return update

    return make


def norfair(_frame_wh: tuple[int, int], fps: float) -> Update:
    nf = importlib.import_module("norfair")
    tracker = nf.Tracker(
        distance_function="iou", distance_threshold=0.7, hit_counter_max=round(KEPT_S * fps), initialization_delay=1
    )

    def update(_time_s: float, detections: Detections) -> list[tuple[int, Box]]:
        found = [face for face in faces(detections, 2) if face.confidence >= 0.5]
        given = [nf.Detection(np.array(face.xyxy).reshape(2, 2)) for face in found]
        tracked = [track for track in tracker.update(given) if track.last_detection in given]
        return [(int(track.id), _box(track.last_detection.points.ravel())) for track in tracked]

    return update


def motpy(_frame_wh: tuple[int, int], fps: float) -> Update:
    mp = importlib.import_module("motpy")
    tracker = mp.MultiObjectTracker(
        dt=1 / fps, tracker_kwargs={"max_staleness": KEPT_S * fps}, matching_fn_kwargs={"min_iou": 0.1}
    )

    def update(_time_s: float, detections: Detections) -> list[tuple[int, Box]]:
        found = [face for face in faces(detections, 2) if face.confidence >= 0.5]
        tracker.step([mp.Detection(box=np.array(face.xyxy), score=face.confidence) for face in found])
        tracked = tracker.active_tracks(max_staleness=1)
        return [(names.setdefault(track.id, len(names) + 1), _box(track.box)) for track in tracked]

    names: dict[str, int] = {}
    return update


CANDIDATES: dict[str, Callable[[tuple[int, int], float], Update]] = {
    "own": own,
    "supervision ByteTrack": supervision_bytetrack,
    "trackers SORT": _roboflow("SORTTracker", track_activation_threshold=0.5),
    "trackers ByteTrack": _roboflow("ByteTrackTracker", track_activation_threshold=0.5, high_conf_det_threshold=0.5),
    "trackers OC-SORT": _roboflow("OCSORTTracker", high_conf_det_threshold=0.5),
    "trackers C-BIoU": _roboflow("CBIoUTracker"),
    "norfair": norfair,
    "motpy": motpy,
}
