"""Somebody is without a mask: one episode a person, not one event a frame.

A face found without a mask for ``confirm_s`` opens an episode (``new``). It ends when the face has worn a mask for
``clear_s`` (``masked``), has not been found for ``gone_s`` (``gone``), or with the stream. Only looks
count, and of those only the ones that are sure (``confidence_min``): a face that the tracker carries forward, or keeps
alive on weak detections, neither confirms nor clears anything. One look counts for at most ``LOOK_S_MAX``, so that two
looks with a long gap between them confirm nothing.

The same face raises nothing new within ``cooldown_s`` of an episode's end. A face that was lost and is found again
under another id, at about the place where it vanished and within ``return_s``, is the same face: an episode still open
goes on, and a cool-down still holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any, Literal

import msgspec
from pydantic import Field

from pipeline.analytics.moment import Moment, rfc3339
from pipeline.errors import ConfigError
from pipeline.plugins import PluginConfig
from pipeline.types import Event, FrameRef, Phase, Result, Track
from pipeline.ulid import IdFactory

KIND = "no_mask"
LOOK_S_MAX = 0.25
RETURN_DISTANCE = 1.0
"""Face sizes between the places where a face vanished and came back."""
RETURN_SIZE_RATIO = 2.0
FACES_MAX = 512
"""Beyond these, faces without an open episode are forgotten, longest unseen first: the state stays bounded."""

Box = tuple[float, float, float, float]


class Config(PluginConfig):
    """Seconds are those of the source's clock. label: the class that the model gives to a face without a mask.

    confidence_min: less sure detections confirm and clear nothing; boxes may be drawn more generously than alerts.
    """

    label: str = KIND
    confidence_min: float = Field(default=0.5, ge=0, le=1)
    confirm_s: float = Field(default=0.5, ge=0)
    clear_s: float = Field(default=0.5, ge=0)
    gone_s: float = Field(default=3.0, gt=0)
    return_s: float = Field(default=5.0, ge=0)
    cooldown_s: float = Field(default=30.0, ge=0)


class _Episode(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What its ``end`` needs to say again."""

    id: str
    track: int
    began: Moment
    confidence: float


class _Face(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One track as this rule knows it.

    since: when it took on its present state (bare or not); state_s: for how long it has been looked at in it.
    confidence: the highest in this state. quiet_until_s: its cool-down.
    """

    box: Box
    bare: bool
    since: Moment
    seen: Moment
    confidence: float
    state_s: float = 0.0
    quiet_until_s: float | None = None
    episode: _Episode | None = None


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """All that the rule knows. episodes: how many there have been."""

    episodes: int = 0
    faces: dict[int, _Face] = {}
    version: Literal[1] = 1


class NoMask:
    """The rule of one source; see the module's docstring."""

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
        found = [track for track in result.tracks if track.detected]
        present = {track.id for track in found}
        events: list[Event] = []
        for track in found:
            face = self._state.faces.get(track.id) or self._arrive(track, now, present)
            self._see(face, track, now)
            events += self._judge(face, track.id, now)
        for face in self._state.faces.values():
            if face.episode and now.stream_s - face.seen.stream_s > self._config.gone_s:
                events.append(self._end(face, face.seen, now.stream_s, "gone"))
        self._forget(now.stream_s)
        return events

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        """Ends what is open, each where its face was last found."""
        return [self._end(face, face.seen, last.time_s, reason) for face in self._state.faces.values() if face.episode]

    def snapshot(self) -> Any:
        # keys of JSON and of strict MessagePack maps are strings
        return msgspec.to_builtins(self._state, str_keys=True)

    def restore(self, state: Any) -> None:
        try:
            self._state = msgspec.convert(state, _State, str_keys=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a state of the {KIND} rule: {error}") from error

    def _arrive(self, track: Track, now: Moment, present: set[int]) -> _Face:
        """A track not seen before: a new face, or one that was lost a moment ago and takes up what that one had."""
        face = _Face(track.xyxy, self._is_bare(track), now, now, track.confidence)
        for old_id, old in self._state.faces.items():
            known = old.episode is not None or self._is_quiet(old, now.stream_s)
            recent = now.stream_s - old.seen.stream_s <= self._config.return_s
            if old_id not in present and known and recent and _about_same_place(old.box, track.xyxy):
                face = msgspec.structs.replace(old)
                old.episode = None
                old.quiet_until_s = now.stream_s + self._config.cooldown_s
                break
        self._state.faces[track.id] = face
        return face

    def _see(self, face: _Face, track: Track, now: Moment) -> None:
        """Takes in that the face was found now."""
        unseen_s = now.stream_s - face.seen.stream_s
        bare = self._is_bare(track)
        if bare != face.bare or unseen_s > self._config.gone_s:
            face.bare, face.since, face.state_s, face.confidence = bare, now, 0.0, track.confidence
        else:
            if track.confidence >= self._config.confidence_min:
                face.state_s += min(unseen_s, LOOK_S_MAX)
            face.confidence = max(face.confidence, track.confidence)
        face.box, face.seen = track.xyxy, now

    def _judge(self, face: _Face, track_id: int, now: Moment) -> list[Event]:
        """Opens or ends the face's episode where its state has lasted long enough."""
        if face.episode is None:
            if face.bare and face.state_s >= self._config.confirm_s and not self._is_quiet(face, now.stream_s):
                return [self._open(face, track_id, now.stream_s)]
        elif not face.bare and face.state_s >= self._config.clear_s:
            return [self._end(face, face.since, now.stream_s, "masked")]
        return []

    def _open(self, face: _Face, track_id: int, stream_s: float) -> Event:
        self._state.episodes += 1
        key = f"{self._source_id}/{self._state.episodes}"
        episode = _Episode(self._make_id(face.since.wall_ns, key), track_id, face.since, face.confidence)
        face.episode = episode
        return self._event(episode, "new", stream_s)

    def _end(self, face: _Face, end: Moment, stream_s: float, reason: str) -> Event:
        episode = face.episode
        assert episode is not None
        face.episode = None
        face.quiet_until_s = end.stream_s + self._config.cooldown_s
        return self._event(episode, "end", stream_s, end, reason)

    def _event(
        self, episode: _Episode, phase: Phase, stream_s: float, end: Moment | None = None, reason: str | None = None
    ) -> Event:
        return Event(
            id=episode.id,
            phase=phase,
            kind=KIND,
            source=self._source_id,
            track=episode.track,
            t_start=rfc3339(episode.began.wall_ns),
            t_end=None if end is None else rfc3339(end.wall_ns),
            stream_s=stream_s,
            confidence=episode.confidence,
            reason=reason,
        )

    def _is_bare(self, track: Track) -> bool:
        return track.class_id == self._bare_class_id

    def _is_quiet(self, face: _Face, stream_s: float) -> bool:
        return face.quiet_until_s is not None and stream_s < face.quiet_until_s

    def _forget(self, stream_s: float) -> None:
        """Drops faces that are gone and have nothing left to hold back, and the oldest of too many."""
        keep_s = max(self._config.gone_s, self._config.return_s)
        kept = {
            track_id: face
            for track_id, face in self._state.faces.items()
            if stream_s - face.seen.stream_s <= keep_s or self._is_quiet(face, stream_s)
        }
        if len(kept) > FACES_MAX:
            idle = sorted((face.seen.stream_s, track_id) for track_id, face in kept.items() if face.episode is None)
            for _, track_id in idle[: len(kept) - FACES_MAX]:
                del kept[track_id]
        self._state.faces = kept


def _about_same_place(a: Box, b: Box) -> bool:
    """Whether two boxes may show one face a few seconds apart."""
    size_a = sqrt((a[2] - a[0]) * (a[3] - a[1]))
    size_b = sqrt((b[2] - b[0]) * (b[3] - b[1]))
    reach = RETURN_DISTANCE * max(size_a, size_b)
    near = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4 <= reach**2
    return near and max(size_a, size_b) <= RETURN_SIZE_RATIO * min(size_a, size_b)


def create(config: Config, source_id: str, labels: Sequence[str], id_factory: IdFactory) -> NoMask:
    """The rule for one source whose detector gives ``labels``; raises ``ConfigError`` where it lacks the label."""
    if config.label not in labels:
        raise ConfigError(f"rule {KIND}: the model has no class {config.label!r}; it has: {', '.join(labels)}")
    return NoMask(config, source_id, list(labels).index(config.label), id_factory)
