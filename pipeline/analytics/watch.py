"""A rule where and when it is to look: only at the faces of its zone, and only while its schedule is open.

Rules know nothing of zones and schedules. A rule that names zones has one instance for each of them; a face is in a
zone when the middle of its box is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.analytics.rule import Rule
from pipeline.areas import Area
from pipeline.schedule import Schedule
from pipeline.types import Event, FrameRef, Result, Track


@dataclass(frozen=True, slots=True)
class Zone:
    name: str
    area: Area

    def holds(self, track: Track, size_wh: tuple[int, int]) -> bool:
        x0, y0, x1, y1 = track.xyxy
        return self.area.holds((x0 + x1) / 2 / size_wh[0], (y0 + y1) / 2 / size_wh[1])


class Watch:
    """One rule of one source. zone: None: the whole picture. schedule: None: always."""

    def __init__(self, rule: Rule, zone: Zone | None = None, schedule: Schedule | None = None) -> None:
        self._rule = rule
        self._zone = zone
        self._schedule = schedule
        self._open = True

    def update(self, result: Result, size_wh: tuple[int, int]) -> list[Event]:
        """What the rule says of a frame of ``size_wh`` pixels; a schedule that closes ends its episodes."""
        was_open, self._open = self._open, self._schedule is None or self._schedule.is_open(result.frame.wall_ns)
        if not self._open:
            return self.finish(result.frame, "off_schedule") if was_open else []
        if self._zone is None:
            return self._rule.update(result)
        inside = tuple(track for track in result.tracks if self._zone.holds(track, size_wh))
        return self._named(self._rule.update(msgspec.structs.replace(result, tracks=inside)))

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        return self._named(self._rule.finish(last, reason))

    def resume(self, away_s: float) -> None:
        self._rule.resume(away_s)

    def _named(self, events: list[Event]) -> list[Event]:
        if self._zone is None:
            return events
        return [msgspec.structs.replace(event, zone=self._zone.name) for event in events]

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings."""
        return {"open": self._open, "rule": self._rule.snapshot()}

    def restore(self, state: Any) -> None:
        """Goes on from what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""
        if not isinstance(state, dict) or not isinstance(state.get("open"), bool):
            raise ValueError("not a state of a rule and its schedule")
        self._rule.restore(state.get("rule"))
        self._open = state["open"]
