"""Faces followed over time: stable ids, and one class a face although the detector's flickers.

Every span is in seconds of the source's clock, so that 25 looks a second, 5, or an irregular number give the same
tracks. Detections come with two thresholds (Zhang et al. 2022, ByteTrack): only those of ``start_confidence`` begin a
track, weaker ones keep one alive. README.md beside this file has the measurements behind that and behind not using a
library.

A track is *tentative* until it has been found a second time. A tentative track is reported in exactly the frames in
which it was found, and never carried forward: what the detector says is drawn at once, but a single false positive
raises one box in one frame. A confirmed one is also reported where it was not found, at the place where it is
expected, for ``MISSED_SHOWN_S`` or, where nobody looked, ``UNLOOKED_SHOWN_S``; it is found again, under the same id,
within ``KEPT_S``.
"""

from __future__ import annotations

from math import exp
from typing import Any, Literal

import msgspec

from pipeline.analytics.association import Face, assign, faces, iou
from pipeline.analytics.motion import Motion
from pipeline.types import Detections, Track

KEPT_S = 2.0
TENTATIVE_KEPT_S = 1.2
MISSED_SHOWN_S = 0.5
UNLOOKED_SHOWN_S = 1.0
CLASS_MEMORY_S = 0.3
CLASS_MARGIN = 1.5
"""The class changes when the evidence for another is this many times that for the present one."""
LOOK_S_MAX = 0.25
"""One look is evidence for at most this long, however long ago the last one was."""
HIDDEN_IOU = 0.3
"""A carried track is not reported where a found one covers it so much."""
CUT_IOU = 0.2
"""The picture shows another scene when of two faces or more not one overlaps so much with any that was there before."""
TRACKS_MAX = 256
"""Beyond these the tracks that were found longest ago are dropped, so that cost and state stay bounded."""


class _Followed(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A track's state at its newest look. evidence: confidence-seconds a class, fading with ``CLASS_MEMORY_S``."""

    id: int
    motion: Motion
    xyxy: tuple[float, float, float, float]
    confidence: float
    class_id: int
    evidence: list[float]
    seen_s: float
    missed_s: float | None = None
    confirmed: bool = False

    def weigh(self, scores: tuple[float, ...], look_s: float) -> None:
        """Takes in one look's scores, which stand for ``look_s`` seconds."""
        fade = exp(-look_s / CLASS_MEMORY_S)
        self.evidence = [old * fade + score * look_s for old, score in zip(self.evidence, scores, strict=True)]
        best = max(range(len(self.evidence)), key=self.evidence.__getitem__)
        margin = CLASS_MARGIN if self.confirmed else 1.0
        if self.evidence[best] > margin * self.evidence[self.class_id]:
            self.class_id = best

    def found(self, face: Face, expected: Motion, time_s: float) -> None:
        """Takes in the face that it was found as."""
        dt_s = time_s - self.seen_s
        self.motion = expected.corrected(face.xyxy, dt_s)
        self.xyxy = face.xyxy
        self.confidence = face.confidence
        self.weigh(face.scores, min(dt_s, LOOK_S_MAX))
        self.seen_s = time_s
        self.missed_s = None

    def shown(self, time_s: float) -> bool:
        """Whether it is reported at ``time_s`` although it was not found then."""
        if not self.confirmed or time_s - self.seen_s > UNLOOKED_SHOWN_S:
            return False
        return self.missed_s is None or time_s - self.seen_s <= MISSED_SHOWN_S

    def report(self, xyxy: tuple[float, float, float, float], detected: bool) -> Track:
        return Track(self.id, self.class_id, self.confidence, xyxy, detected)


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """All that a tracker knows. time_s: of the newest frame; looked_s: of the newest that was looked at."""

    next_id: int
    time_s: float | None = None
    looked_s: float | None = None
    frame_wh: tuple[int, int] | None = None
    tracks: list[_Followed] = []
    version: Literal[1] = 1


class Tracker:
    """Follows the faces of one source.

    classes: how many the detector knows. start_confidence: weaker detections only keep tracks alive.
    first_id: ids go up from here and are never reused.
    """

    def __init__(self, classes: int, *, start_confidence: float = 0.5, first_id: int = 1) -> None:
        self._classes = classes
        self._start_confidence = start_confidence
        self._state = _State(first_id)

    def update(self, time_s: float, detections: Detections | None, frame_wh: tuple[int, int]) -> tuple[Track, ...]:
        """The tracks of the frame at ``time_s``, by id; ``detections`` is None where nobody looked.

        Raises ``ValueError`` where ``time_s`` is not later than the frame before.
        """
        if self._state.time_s is not None and not time_s > self._state.time_s:
            raise ValueError(f"time must go up: {time_s} s after {self._state.time_s} s")
        self._state.time_s = time_s
        self._fit(frame_wh)
        self._forget(time_s)
        expected = [track.motion.after(time_s - track.seen_s) for track in self._state.tracks]
        reports: list[Track] = []
        if detections is not None:
            reports = self._look(time_s, faces(detections, self._classes), expected)
            self._state.looked_s = time_s
        reports += self._carried(time_s, expected, reports, frame_wh)
        return tuple(sorted(reports, key=lambda track: track.id))

    def _look(self, time_s: float, found: list[Face], expected: list[Motion]) -> list[Track]:
        """Matches ``found`` with the tracks, strong ones first, and begins tracks for what is left of those."""
        strong = [face for face in found if face.confidence >= self._start_confidence]
        weak = [face for face in found if face.confidence < self._start_confidence]
        if self._is_another_scene(time_s, strong, expected):
            self._state.tracks, expected[:] = [], []
        free = list(range(len(self._state.tracks)))
        reports: list[Track] = []
        for candidates in (strong, weak):
            pairs = assign([expected[i] for i in free], [face.xyxy for face in candidates])
            for i, j in pairs:
                track = self._state.tracks[free[i]]
                track.found(candidates[j], expected[free[i]], time_s)
                track.confirmed = track.confirmed or candidates is strong
                reports.append(track.report(track.xyxy, detected=True))
            matched = {i for i, _ in pairs}
            free = [index for i, index in enumerate(free) if i not in matched]
            if candidates is strong:
                taken = {j for _, j in pairs}
                born = [face for j, face in enumerate(strong) if j not in taken]
        for index in free:
            track = self._state.tracks[index]
            if track.missed_s is None:
                track.missed_s = time_s
        for face in born:
            track = self._begin(face, time_s)
            reports.append(track.report(track.xyxy, detected=True))
        return reports

    def _is_another_scene(self, time_s: float, strong: list[Face], expected: list[Motion]) -> bool:
        """Whether the camera has been switched, or an edited video cut: nobody who was there goes on."""
        tracks = zip(self._state.tracks, expected, strict=True)
        before = [motion for track, motion in tracks if time_s - track.seen_s <= MISSED_SHOWN_S]
        if len(before) < 2 or len(strong) < 2:
            return False
        return not any(iou(motion.xyxy, face.xyxy) >= CUT_IOU for motion in before for face in strong)

    def _begin(self, face: Face, time_s: float) -> _Followed:
        look_s = 0.0 if self._state.looked_s is None else min(time_s - self._state.looked_s, LOOK_S_MAX)
        evidence = [score * look_s for score in face.scores]
        best = max(range(self._classes), key=face.scores.__getitem__)
        track = _Followed(self._state.next_id, Motion.at(face.xyxy), face.xyxy, face.confidence, best, evidence, time_s)
        self._state.next_id += 1
        self._state.tracks.append(track)
        return track

    def _carried(
        self, time_s: float, expected: list[Motion], reports: list[Track], frame_wh: tuple[int, int]
    ) -> list[Track]:
        """The tracks that were not found at ``time_s`` but are still reported, clipped to the frame."""
        width, height = frame_wh
        carried: list[Track] = []
        for track, motion in zip(self._state.tracks, expected, strict=False):
            if track.seen_s == time_s or not track.shown(time_s):
                continue
            if not (0 <= motion.cx <= width and 0 <= motion.cy <= height):
                continue
            x1, y1, x2, y2 = motion.xyxy
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
            if any(iou(box, report.xyxy) > HIDDEN_IOU for report in reports):
                continue
            carried.append(track.report(box, detected=False))
        return carried

    def _forget(self, time_s: float) -> None:
        """Drops the tracks that were not found for too long, and the oldest of too many."""
        kept = [t for t in self._state.tracks if time_s - t.seen_s <= (KEPT_S if t.confirmed else TENTATIVE_KEPT_S)]
        if len(kept) > TRACKS_MAX:
            kept = sorted(sorted(kept, key=lambda t: t.seen_s)[-TRACKS_MAX:], key=lambda t: t.id)
        self._state.tracks = kept

    def _fit(self, frame_wh: tuple[int, int]) -> None:
        """A source that changes its size goes on with the same faces."""
        if self._state.frame_wh is not None and self._state.frame_wh != frame_wh:
            fx, fy = frame_wh[0] / self._state.frame_wh[0], frame_wh[1] / self._state.frame_wh[1]
            for track in self._state.tracks:
                track.motion = track.motion.scaled(fx, fy)
        self._state.frame_wh = frame_wh

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings."""
        return msgspec.to_builtins(self._state)

    def restore(self, state: Any) -> None:
        """Goes on from what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""
        try:
            restored = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a tracker's state: {error}") from error
        if any(len(track.evidence) != self._classes for track in restored.tracks):
            raise ValueError(f"a tracker's state for another number of classes than {self._classes}")
        self._state = restored
