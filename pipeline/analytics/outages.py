"""A source that is lost and comes back, as events: one id an outage, ``source_lost`` when it begins, ``source_live``
when it is over."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.analytics.moment import Moment, rfc3339
from pipeline.types import Event, Phase
from pipeline.ulid import IdFactory

LOST, LIVE = "source_lost", "source_live"


class _Outage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    id: str
    began: Moment


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """count: how many there have been. live_s: when the last one was over, on the source's clock."""

    count: int = 0
    outage: _Outage | None = None
    live_s: float | None = None


class Outages:
    """Those of one source."""

    def __init__(self, source_id: str, make_id: IdFactory) -> None:
        self._source_id = source_id
        self._make_id = make_id
        self._state = _State()

    @property
    def lost(self) -> bool:
        return self._state.outage is not None

    def settled(self, stream_s: float, settle_s: float) -> bool:
        """Whether the source has been live for ``settle_s`` since it was last lost."""
        return not self.lost and (self._state.live_s is None or stream_s - self._state.live_s >= settle_s)

    def begin(self, now: Moment, reason: str) -> list[Event]:
        """The source was lost for ``reason``; nothing where that is known already."""
        if self._state.outage is not None:
            return []
        self._state.count += 1
        self._state.outage = _Outage(self._make_id(now.wall_ns, f"{self._source_id}/{self._state.count}"), now)
        return [self._event(self._state.outage, LOST, "new", now, reason)]

    def end(self, now: Moment) -> list[Event]:
        """The source is live; nothing where it was not lost."""
        outage = self._state.outage
        if outage is None:
            return []
        self._state.outage, self._state.live_s = None, now.stream_s
        return [self._event(outage, LIVE, "end", now, None)]

    def finish(self, now: Moment, reason: str) -> list[Event]:
        """The stream has ended, for ``reason``; an outage that was not over ends with it, and never before it began."""
        outage, self._state.outage = self._state.outage, None
        if outage is None:
            return []
        now = Moment(max(now.stream_s, outage.began.stream_s), max(now.wall_ns, outage.began.wall_ns))
        return [self._event(outage, LOST, "end", now, reason)]

    def _event(self, outage: _Outage, kind: str, phase: Phase, now: Moment, reason: str | None) -> Event:
        return Event(
            id=outage.id,
            phase=phase,
            kind=kind,
            source=self._source_id,
            track=None,
            t_start=rfc3339(outage.began.wall_ns),
            t_end=rfc3339(now.wall_ns) if phase == "end" else None,
            stream_s=now.stream_s,
            confidence=1.0,
            reason=reason,
            t_update=rfc3339(now.wall_ns),
        )

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings."""
        return msgspec.to_builtins(self._state)

    def restore(self, state: Any) -> None:
        """Goes on from what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""
        try:
            self._state = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a state of a source's outages: {error}") from error
