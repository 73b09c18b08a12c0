"""The best view of each face so far: kept while nobody knows yet whether it will be asked for."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sinks.canvas import Canvas
from pipeline.types import I420, Layout, Result, Track

MARGIN = 0.35
"""Of the face's size, on each side: hair, chin and what hangs off an ear belong to the evidence."""
BETTER = 1.15
"""A view takes the place of another where it is so much better; else every frame would be copied."""
FORGOTTEN_S = 10.0
SPELLS = 3
"""Of each face the last so many are kept: with a mask, without, with one again."""
_SIDE_MIN_PX = 8


@dataclass(slots=True)
class _View:
    """The best one while the face was of that class, from ``since_s`` to ``seen_s``."""

    class_id: int
    since_s: float
    seen_s: float
    quality: float
    canvas: Canvas


class BestFaces:
    """Copies of the faces of one source. A view is better where the face is larger and surer; one of another class is
    another view, or an event would be shown with what was there before it.
    """

    def __init__(self) -> None:
        self._views: dict[int, list[_View]] = {}

    def look(self, image: I420, result: Result) -> None:
        now_s = result.frame.time_s
        for track in result.tracks:
            if track.detected:
                self._look(image, track, now_s)
        for track_id in [id_ for id_, views in self._views.items() if now_s - views[-1].seen_s > FORGOTTEN_S]:
            del self._views[track_id]

    def _look(self, image: I420, track: Track, now_s: float) -> None:
        x0, y0, x1, y1 = track.xyxy
        quality = max(0.0, x1 - x0) * max(0.0, y1 - y0) * track.confidence
        if cut_off(track, image.layout):
            quality /= 4
        views = self._views.get(track.id, [])
        view = views[-1] if views and views[-1].class_id == track.class_id else None
        if view is not None:
            view.seen_s = now_s
            if quality < view.quality * BETTER:
                return
        canvas = crop(image, track.xyxy)
        if canvas is None:
            return
        if view is not None:
            view.quality, view.canvas = quality, canvas
        else:
            self._views[track.id] = [*views, _View(track.class_id, now_s, now_s, quality, canvas)][-SPELLS:]

    def jpeg(self, track_id: int, at_s: float) -> bytes | None:
        """The best view of that face as what it was at ``at_s``, as a JPEG; None where it has not been seen."""
        views = self._views.get(track_id)
        if not views:
            return None
        return next((view for view in reversed(views) if view.since_s <= at_s), views[0]).canvas.jpeg()


def cut_off(track: Track, layout: Layout) -> bool:
    x0, y0, x1, y1 = track.xyxy
    return x0 < 0 or y0 < 0 or x1 > layout.width or y1 > layout.height


def crop(image: I420, xyxy: tuple[float, float, float, float]) -> Canvas | None:
    """The face and ``MARGIN`` around it, copied; None where next to nothing of it is in the picture."""
    x0, y0, x1, y1 = xyxy
    if not (x0 < x1 and y0 < y1):
        return None
    across, down = MARGIN * (x1 - x0), MARGIN * (y1 - y0)
    layout = image.layout
    left, top = max(0, int(x0 - across)) // 2 * 2, max(0, int(y0 - down)) // 2 * 2
    right, bottom = min(layout.width, round(x1 + across)), min(layout.height, round(y1 + down))
    right, bottom = left + (right - left) // 2 * 2, top + (bottom - top) // 2 * 2
    if right - left < _SIDE_MIN_PX or bottom - top < _SIDE_MIN_PX:
        return None
    canvas = Canvas(Layout(right - left, bottom - top, layout.matrix, layout.full_range))
    canvas.image.y[:] = image.y[top:bottom, left:right]
    half = slice(top // 2, bottom // 2), slice(left // 2, right // 2)
    canvas.image.u[:] = image.u[half]
    canvas.image.v[:] = image.v[half]
    return canvas
