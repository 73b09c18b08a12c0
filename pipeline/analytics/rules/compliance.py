"""Too many without a mask: the share of unmasked faces, over the last ``window_s``, in a picture or a zone.

Every look counts each face in it for the time since the look before (at most ``LOOK_S_MAX``), so that one person for
ten seconds weighs as much as ten for one. The episode opens when the share reaches ``share_in`` and ends when it has
fallen to ``share_out`` (``complied``); a window with fewer than ``faces_min`` faces on average opens none, and one with
less than half as many ends it (``few_faces``). Nothing opens before half a window has been looked at, nor within
``cooldown_s`` of an end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from pipeline.analytics.moment import Moment, rfc3339
from pipeline.analytics.rule import RuleConfig, class_of
from pipeline.types import Event, FrameRef, Phase, Result
from pipeline.ulid import IdFactory

KIND = "compliance"
LOOK_S_MAX = 0.25
SLICES = 20
"""A window moves on in so many steps."""


class Config(RuleConfig):
    """Shares of 0..1 are of faces without a mask; label: the class that the model gives to them."""

    label: str = "no_mask"
    confidence_min: float = Field(default=0.5, ge=0, le=1)
    window_s: float = Field(default=10.0, gt=0)
    share_in: float = Field(default=0.5, gt=0, le=1)
    share_out: float = Field(default=0.3, ge=0, lt=1)
    faces_min: float = Field(default=3.0, gt=0)
    cooldown_s: float = Field(default=60.0, ge=0)
    update_s: float = Field(default=30.0, gt=0)

    @model_validator(mode="after")
    def _in_is_above_out(self) -> Self:
        if self.share_out >= self.share_in:
            raise ValueError(f"share_out ({self.share_out:g}) must be below share_in ({self.share_in:g})")
        return self


class _Slice(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What a part of the window has seen. looked_s: how long; face_s, bare_s: summed over the faces."""

    number: int
    looked_s: float = 0.0
    face_s: float = 0.0
    bare_s: float = 0.0


class _Episode(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    id: str
    began: Moment
    best: float
    said_s: float
    number: int = 0


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """seen: the newest look. confidence: the mean of the bare faces in the newest look that had any."""

    episodes: int = 0
    slices: list[_Slice] = []
    seen: Moment | None = None
    found: int = 0
    confidence: float = 0.0
    quiet_until_s: float | None = None
    episode: _Episode | None = None
    version: Literal[1] = 1


class Compliance:
    """The rule of one source or zone; see the module's docstring."""

    def __init__(self, config: Config, source_id: str, bare_class_id: int, make_id: IdFactory) -> None:
        self._config = config
        self._source_id = source_id
        self._bare_class_id = bare_class_id
        self._make_id = make_id
        self._state = _State()

    def update(self, result: Result) -> list[Event]:
        if not result.detected:
            return []
        now = Moment.of(result.frame)
        self._look(result, now)
        return self._judge(now)

    def _look(self, result: Result, now: Moment) -> None:
        state = self._state
        sure = [t for t in result.tracks if t.detected and t.confidence >= self._config.confidence_min]
        bare = [track.confidence for track in sure if track.class_id == self._bare_class_id]
        look_s = 0.0 if state.seen is None else min(now.stream_s - state.seen.stream_s, LOOK_S_MAX)
        number = int(now.stream_s * SLICES / self._config.window_s)
        state.slices = [part for part in state.slices if part.number > number - SLICES]
        if not state.slices or state.slices[-1].number != number:
            state.slices.append(_Slice(number))
        newest = state.slices[-1]
        newest.looked_s += look_s
        newest.face_s += look_s * len(sure)
        newest.bare_s += look_s * len(bare)
        state.seen, state.found = now, len(sure)
        state.confidence = sum(bare) / len(bare) if bare else state.confidence

    def _judge(self, now: Moment) -> list[Event]:
        config, state = self._config, self._state
        share, faces = self._share(), self._faces()
        if state.episode is None:
            looked = sum(part.looked_s for part in state.slices) >= config.window_s / 2
            quiet = state.quiet_until_s is not None and now.stream_s < state.quiet_until_s
            if looked and not quiet and faces >= config.faces_min and share >= config.share_in:
                return [self._open(now, share)]
            return []
        state.episode.best = max(state.episode.best, state.confidence)
        if faces < config.faces_min / 2:
            return [self._end(state.episode, now, now.stream_s, "few_faces")]
        if share <= config.share_out:
            return [self._end(state.episode, now, now.stream_s, "complied")]
        if now.stream_s - state.episode.said_s >= config.update_s:
            state.episode.said_s = now.stream_s
            state.episode.number += 1
            return [self._event(state.episode, "update", now.stream_s)]
        return []

    def _share(self) -> float:
        face_s = sum(part.face_s for part in self._state.slices)
        return sum(part.bare_s for part in self._state.slices) / face_s if face_s else 0.0

    def _faces(self) -> float:
        """How many there were on average."""
        looked_s = sum(part.looked_s for part in self._state.slices)
        return sum(part.face_s for part in self._state.slices) / looked_s if looked_s else 0.0

    def _open(self, now: Moment, share: float) -> Event:
        state = self._state
        state.episodes += 1
        made = self._make_id(now.wall_ns, f"{self._source_id}/{state.episodes}")
        state.episode = _Episode(made, now, state.confidence, now.stream_s)
        return self._event(state.episode, "new", now.stream_s, share=share)

    def _end(self, episode: _Episode, end: Moment, stream_s: float, reason: str) -> Event:
        self._state.episode = None
        self._state.quiet_until_s = end.stream_s + self._config.cooldown_s
        return self._event(episode, "end", stream_s, end=end, reason=reason)

    def _event(
        self,
        episode: _Episode,
        phase: Phase,
        stream_s: float,
        *,
        share: float | None = None,
        end: Moment | None = None,
        reason: str | None = None,
    ) -> Event:
        return Event(
            id=episode.id,
            phase=phase,
            kind=KIND,
            source=self._source_id,
            track=None,
            t_start=rfc3339(episode.began.wall_ns),
            t_end=None if end is None else rfc3339(end.wall_ns),
            stream_s=stream_s,
            confidence=self._state.confidence,
            confidence_best=episode.best,
            reason=reason,
            number=episode.number if phase == "update" else 0,
            faces=self._state.found,
            share=round(self._share() if share is None else share, 3),
        )

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        """Ends what is open at the newest look; the window begins anew."""
        ended: list[Event] = []
        if self._state.episode is not None and self._state.seen is not None:
            ended = [self._end(self._state.episode, self._state.seen, last.time_s, reason)]
        self._state.slices = []
        return ended

    def resume(self, away_s: float) -> None:
        """The cool-down ends so much later."""
        if self._state.quiet_until_s is not None:
            self._state.quiet_until_s += away_s

    def snapshot(self) -> Any:
        return msgspec.to_builtins(self._state)

    def restore(self, state: Any) -> None:
        try:
            self._state = msgspec.convert(state, _State)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a state of the {KIND} rule: {error}") from error


def create(config: Config, source_id: str, labels: Sequence[str], id_factory: IdFactory) -> Compliance:
    """The rule for one source whose detector gives ``labels``; raises ``ConfigError`` where it lacks the label."""
    return Compliance(config, source_id, class_of(KIND, config.label, labels), id_factory)
