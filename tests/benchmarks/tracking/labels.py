"""The labelled episodes of ``tests/data/episodes``, and what becomes of them when a video is turned round or cut."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import yaml

from pipeline.analytics.association import Box

FOLDER = Path(__file__).parents[2] / "data" / "episodes"
FACE_MIN = 0.04
"""Root of a face's share of the picture: the smallest anchor of AIZOO's network."""
FRAME_S = 0.05
"""Labels are that exact."""
STEP_S = 0.1

Span = tuple[float, float]


@dataclass(frozen=True)
class Person:
    """boxes: (seconds, box in shares of the picture), in order. bare: spans. ignore: why nothing is expected.

    small_until_s: nothing is expected before.
    """

    name: str
    boxes: tuple[tuple[float, Box], ...]
    bare: tuple[Span, ...] = ()
    ignore: str | None = None
    small_until_s: float = 0.0

    def at(self, time_s: float) -> Box | None:
        """Where the face is; None before the first and behind the last box."""
        times = [time for time, _ in self.boxes]
        if not times[0] - FRAME_S <= time_s <= times[-1] + FRAME_S:
            return None
        time_s = min(max(time_s, times[0]), times[-1])
        after = min(bisect_right(times, time_s), len(times) - 1)
        (t0, a), (t1, b) = self.boxes[max(after - 1, 0)], self.boxes[after]
        share = 0.0 if t1 == t0 else (time_s - t0) / (t1 - t0)
        x0, y0, x1, y1 = (p + share * (q - p) for p, q in zip(a, b, strict=True))
        return x0, y0, x1, y1

    def is_bare(self, time_s: float) -> bool:
        return any(start <= time_s <= end + 0.3 for start, end in self.bare)

    def expected(self, shortest_s: float) -> list[Span]:
        """The spans without a mask in which an episode must be raised."""
        seen = [] if self.ignore else self.bare
        return [(start, end) for start, end in seen if end - max(start, self.small_until_s) >= shortest_s]


@dataclass(frozen=True)
class Labels:
    video: str
    end_s: float
    people: tuple[Person, ...]

    def from_size(self, smallest: float) -> Labels:
        """With all faces that never reach that size ignored, and the others expected from when they reach it."""

        def seen(person: Person) -> Person:
            first, last = person.boxes[0][0], person.boxes[-1][0]
            times = [first + STEP_S * k for k in range(int((last - first) / STEP_S) + 1)] + [last]
            large = [time for time in times if size(person.at(time) or person.boxes[0][1]) >= smallest]
            if not large:
                return replace(person, ignore=person.ignore or "small")
            return replace(person, small_until_s=max(person.small_until_s, large[0] if large[0] > first else 0.0))

        return replace(self, people=tuple(map(seen, self.people)))

    def backwards(self) -> Labels:
        """Of the video played backwards: who puts a mask on takes it off."""

        def turned(person: Person) -> Person:
            boxes = tuple((self.end_s - time, box) for time, box in reversed(person.boxes))
            bare = tuple((self.end_s - end, self.end_s - start) for start, end in reversed(person.bare))
            return replace(person, boxes=boxes, bare=bare, small_until_s=0.0)

        return replace(self, video=f"{self.video}, backwards", people=tuple(map(turned, self.people)))

    def without(self, start_s: float, end_s: float) -> Labels:
        """Of the video with that part cut out."""

        def moved(time_s: float) -> float:
            return time_s if time_s <= start_s else max(start_s, time_s - (end_s - start_s))

        def shortened(person: Person) -> Person:
            places = {moved(time): box for time, box in person.boxes}
            bare = tuple((moved(a), moved(b)) for a, b in person.bare if moved(b) > moved(a))
            return replace(person, boxes=tuple(sorted(places.items())), bare=bare)

        cut = self.end_s - (end_s - start_s)
        return Labels(f"{self.video}, cut", cut, tuple(map(shortened, self.people)))


def read(video: str) -> Labels:
    """Those of the video with that stem; raises ``OSError`` where there are none."""
    data = yaml.safe_load((FOLDER / f"{video}.yaml").read_text())
    people = []
    for name, given in data["people"].items():
        boxes = tuple((float(time), tuple(box)) for time, box in given["boxes"].items())
        bare = tuple((float(start), float(end)) for start, end in given.get("bare", ()))
        people.append(Person(name, boxes, bare, given.get("ignore"), given.get("small_until_s", 0.0)))
    return Labels(video, float(data["end_s"]), tuple(people))


def size(box: Box) -> float:
    """Root of its area."""
    return sqrt(max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1]))


def distance(a: Box, b: Box) -> float:
    """Between the middles of two boxes, in sizes of the larger; infinite where one is over three times the other."""
    wide, high = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    large, small = max(size(a), size(b)), min(size(a), size(b))
    if large > 3 * small or large == 0:
        return float("inf")
    # shares of width and height are no lengths; each is compared with the box in its own direction
    return sqrt((wide / max(a[2] - a[0], b[2] - b[0])) ** 2 + (high / max(a[3] - a[1], b[3] - b[1])) ** 2)
