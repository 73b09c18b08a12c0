"""All analytics of one source: detections in, results and events out, in the order of the frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from pipeline.analytics.moment import Moment, rfc3339
from pipeline.analytics.outages import Outages
from pipeline.analytics.tracking import Tracker
from pipeline.analytics.watch import Watch, Zone
from pipeline.areas import Area
from pipeline.errors import ConfigError
from pipeline.plugins import Plugin, PluginConfig
from pipeline.schedule import Schedule
from pipeline.types import Detections, Event, FrameRef, Result
from pipeline.ulid import IdFactory

STATE_VERSION = 2
SETTLE_S = 2.0
"""A source that has come back raises nothing for so long: its first pictures may be damaged, dark or still moving."""
WEAK_FRACTION = 0.6
"""Detections down to this fraction of the confidence that begins a track keep it alive."""


def detector_confidence(confidence_min: float) -> float:
    """What the detector should report for tracking where people ask for ``confidence_min``."""
    return confidence_min * WEAK_FRACTION


class Model(NamedTuple):
    """Which network looks: its name, and the sha256 of the file that holds its weights."""

    name: str
    sha256: str


class SourceAnalytics:
    """Tracker and rules of one source; the same frames and detections give the same results and events.

    watches: the rules, by name; they see every result in this order, except while the source is lost and until it has
    been back for ``SETTLE_S``. model: named in every event that it has a part in.
    """

    def __init__(
        self, tracker: Tracker, watches: Mapping[str, Watch], outages: Outages, model: Model | None = None
    ) -> None:
        self._tracker = tracker
        self._watches = dict(watches)
        self._outages = outages
        self._model = model
        self._last: FrameRef | None = None
        self._away_since_s: float | None = None

    def update(
        self, frame: FrameRef, detections: Detections | None, reason: str | None, size_wh: tuple[int, int]
    ) -> tuple[Result, list[Event]]:
        """The result of the source's next frame, and what the rules say of it.

        detections: what the detector found in pixels of a frame of ``size_wh``; None where it did not look, for
        ``reason`` (one of ``SKIP_CAUSES``). Raises ``ValueError`` where ``frame.time_s`` does not go up.
        """
        tracks = self._tracker.update(frame.time_s, detections, size_wh)
        self._last = frame
        result = Result(frame, tracks, detections is not None, reason)
        # a frame is proof enough, whether or not anybody said so
        events = self._outages.end(Moment.of(frame))
        if self._outages.settled(frame.time_s, SETTLE_S):
            events += self._signed(self._judge(result, size_wh), frame.wall_ns)
        return result, events

    def _judge(self, result: Result, size_wh: tuple[int, int]) -> list[Event]:
        if self._away_since_s is not None:
            for watch in self._watches.values():
                watch.resume(result.frame.time_s - self._away_since_s)
            self._away_since_s = None
        return [event for watch in self._watches.values() for event in watch.update(result, size_wh)]

    def source_changed(self, state: str, reason: str, wall_ns: int, time_s: float) -> list[Event]:
        """The source is ``live`` or, with any other ``state``, was lost for ``reason``; saying it again does nothing.

        Its loss ends every open episode with reason ``source_lost``. wall_ns, time_s: when, on both clocks.
        """
        now = Moment(time_s, wall_ns)
        if state == "live":
            return self._outages.end(now)
        if self._outages.lost:
            return []
        if self._last is not None and self._away_since_s is None:
            self._away_since_s = self._last.time_s
        return self._end_episodes("source_lost") + self._outages.begin(now, reason)

    def finish(self, reason: str = "end_of_stream", wall_ns: int = 0, time_s: float = 0.0) -> list[Event]:
        """Ends every open episode behind the newest frame, and an outage now: wall_ns, time_s, on both clocks."""
        return self._end_episodes(reason) + self._outages.finish(Moment(time_s, wall_ns), reason)

    def _end_episodes(self, reason: str) -> list[Event]:
        if self._last is None:
            return []
        ended = [event for watch in self._watches.values() for event in watch.finish(self._last, reason)]
        return self._signed(ended, self._last.wall_ns)

    def _signed(self, events: list[Event], wall_ns: int) -> list[Event]:
        """``events`` with what every event of this moment has in common."""
        common: dict[str, str] = {"t_update": rfc3339(wall_ns)}
        if self._model is not None:
            common |= {"model": self._model.name, "model_sha256": self._model.sha256}
        return [msgspec.structs.replace(event, **common) for event in events]

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings."""
        return {
            "version": STATE_VERSION,
            "last": msgspec.to_builtins(self._last),
            "outages": self._outages.snapshot(),
            "away_since_s": self._away_since_s,
            "tracker": self._tracker.snapshot(),
            "watches": {name: watch.snapshot() for name, watch in self._watches.items()},
        }

    def restore(self, state: Any) -> None:
        """Goes on from what ``snapshot`` gave; raises ``ValueError`` where it does not fit these rules."""
        if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
            raise ValueError(f"not a state of version {STATE_VERSION} of a source's analytics")
        watches = state.get("watches")
        if not isinstance(watches, dict) or set(watches) != set(self._watches):
            raise ValueError(f"a state for other rules than {', '.join(self._watches) or 'none'}")
        try:
            last = msgspec.convert(state.get("last"), FrameRef | None)
            away_since_s = msgspec.convert(state.get("away_since_s"), float | None)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a state of a source's analytics: {error}") from error
        self._outages.restore(state.get("outages"))
        self._tracker.restore(state.get("tracker"))
        for name, watch in self._watches.items():
            watch.restore(watches[name])
        self._last = last
        self._away_since_s = away_since_s


def build(
    source_id: str,
    labels: Sequence[str],
    rules: Mapping[str, tuple[Plugin, PluginConfig]],
    make_id: IdFactory,
    *,
    confidence_min: float = 0.5,
    first_track_id: int = 1,
    zones: Mapping[str, Area] | None = None,
    schedule: Schedule | None = None,
    model: Model | None = None,
) -> SourceAnalytics:
    """The analytics of ``source_id`` for a detector with ``labels``.

    rules: each with its checked configuration, by name. make_id: one for the run (``ulid.id_factory``).
    zones: those of the pipeline, by name. schedule: for rules that have none of their own.
    Raises ``ConfigError`` where a rule does not fit the detector or names a zone that there is not.
    """

    def named(name: str) -> IdFactory:
        return lambda wall_ns, key: make_id(wall_ns, f"{name}/{key}")

    watches: dict[str, Watch] = {}
    for name, (plugin, config) in rules.items():
        when = getattr(config, "schedule", None) or schedule
        for key, zone in _places(name, getattr(config, "zones", ()), source_id, zones or {}).items():
            watches[key] = Watch(plugin.create(config, source_id, labels, named(key)), zone, when)
    return SourceAnalytics(
        Tracker(len(labels), start_confidence=confidence_min, first_id=first_track_id),
        watches,
        Outages(source_id, named("")),  # no rule has that name
        model,
    )


def _places(rule: str, wanted: Sequence[str], source_id: str, zones: Mapping[str, Area]) -> Mapping[str, Zone | None]:
    """Where a rule looks in this source, by a name for its state: ``rule``, or ``rule@zone`` of each zone it names."""
    for name in wanted:
        if name not in zones:
            raise ConfigError(f"rule {rule}: {name!r} is not a zone here; there are: {', '.join(zones) or 'none'}")
    if not wanted:
        return {rule: None}
    return {f"{rule}@{name}": Zone(name, zones[name]) for name in wanted if zones[name].applies_to(source_id)}
