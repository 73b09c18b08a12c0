"""Faces without a mask, as episodes: one a person, not one event a frame. What ``no_mask`` and ``mask_removed`` share.

A face found without a mask for ``confirm_s`` opens an episode; each look with a mask takes back as much (k of n looks).
It ends when the face has worn a mask for ``clear_s`` (``masked``), has not been found for ``gone_s`` (``gone``), or
with the stream. Only looks count, and of those only the ones that are sure (``confidence_min``): a face that the
tracker carries forward, or keeps alive on weak detections, neither confirms nor clears anything. One look counts for at
most ``LOOK_S_MAX``, so that two looks with a long gap between them confirm nothing.

The same face raises nothing new within ``cooldown_s`` of an episode's end. A face that was lost and is found again
under another id, at about the place where it vanished and within ``return_s``, is the same face: an episode still open
goes on, and a cool-down still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt
from typing import Any, Literal

import msgspec
from pydantic import Field

from pipeline.analytics.moment import Moment, rfc3339
from pipeline.analytics.rule import RuleConfig, class_of
from pipeline.types import Event, FrameRef, Phase, Result, Track

LOOK_S_MAX = 0.25
RETURN_DISTANCE = 1.0
"""Face sizes between the places where a face vanished and came back."""
BESIDE_DISTANCE = 0.5
"""The same for two tracks that were there at one time: in a crowd the next face is one size away."""
RETURN_SIZE_RATIO = 2.0
FACES_MAX = 256
"""Beyond these, faces without an open episode are forgotten, longest unseen first: the state stays bounded."""

Box = tuple[float, float, float, float]
MakeId = Callable[[int, str], str]


class FaceRuleConfig(RuleConfig):
    """Seconds are those of the source's clock. label: the class that the model gives to a face without a mask.

    confidence_min: less sure detections confirm and clear nothing; boxes may be drawn more generously than alerts.
    update_s: an episode that goes on says so this often.
    """

    label: str = "no_mask"
    confidence_min: float = Field(default=0.5, ge=0, le=1)
    confirm_s: float = Field(default=0.5, ge=0)
    clear_s: float = Field(default=0.5, ge=0)
    gone_s: float = Field(default=3.0, gt=0)
    return_s: float = Field(default=5.0, ge=0)
    cooldown_s: float = Field(default=30.0, ge=0)
    update_s: float = Field(default=30.0, gt=0)


class _Episode(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """best: the highest confidence so far. number: of the newest update, which was said at ``said_s``."""

    id: str
    track: int
    began: Moment
    best: float
    said_s: float
    number: int = 0


class _Face(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """One track as the rule knows it.

    first_s: when its track began. bare_s, masked_s: evidence, in seconds of looks; bare, masked: since when.
    confidence: of the newest sure look. worn_s: for how long it has been seen with a mask since its last episode.
    quiet_until_s: its cool-down.
    """

    box: Box
    first_s: float
    seen: Moment
    confidence: float
    best: float = 0.0
    bare_s: float = 0.0
    masked_s: float = 0.0
    bare: Moment | None = None
    masked: Moment | None = None
    worn_s: float = 0.0
    quiet_until_s: float | None = None
    episode: _Episode | None = None


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """episodes: how many there have been. found: the tracks of the newest look. scene_s: when its scene began."""

    episodes: int = 0
    found: list[int] = []
    scene_s: float = 0.0
    faces: dict[int, _Face] = {}
    version: Literal[2] = 2


class BareFaces:
    """The faces of one source, or of one zone of it; see the module's docstring.

    worn_s: a face opens an episode only after it has been seen with a mask for so long; None: in any case.
    """

    def __init__(
        self,
        kind: str,
        config: FaceRuleConfig,
        source_id: str,
        labels: Sequence[str],
        make_id: MakeId,
        worn_s: float | None = None,
    ) -> None:
        """Raises ``ConfigError`` where the model has no such label."""
        self._kind = kind
        self._config = config
        self._source_id = source_id
        self._bare_class_id = class_of(kind, config.label, labels)
        self._make_id = make_id
        self._worn_s = worn_s
        self._state = _State()

    def update(self, result: Result) -> list[Event]:
        if not result.detected:
            return []
        now = Moment.of(result.frame)
        found = [track for track in result.tracks if track.detected]
        present = {track.id for track in found}
        self._note_scene(result, present)
        events: list[Event] = []
        for track in found:
            face = self._state.faces.get(track.id) or self._arrive(track, now, present)
            self._see(face, track, now)
            events += self._judge(face, track.id, now, present)
        for face in self._state.faces.values():
            if face.episode and now.stream_s - face.seen.stream_s > self._config.gone_s:
                events.append(self._end(face, face.seen, now.stream_s, "gone"))
        self._forget(now.stream_s)
        return events

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        """Ends what is open, each where its face was last found."""
        return [self._end(face, face.seen, last.time_s, reason) for face in self._state.faces.values() if face.episode]

    def resume(self, away_s: float) -> None:
        """Every face was last seen, and every cool-down ends, so much later."""
        for face in self._state.faces.values():
            face.seen = Moment(face.seen.stream_s + away_s, face.seen.wall_ns + round(away_s * 1e9))
            if face.quiet_until_s is not None:
                face.quiet_until_s += away_s

    def snapshot(self) -> Any:
        # keys of JSON and of strict MessagePack maps are strings
        return msgspec.to_builtins(self._state, str_keys=True)

    def restore(self, state: Any) -> None:
        try:
            self._state = msgspec.convert(state, _State, str_keys=True)
        except msgspec.ValidationError as error:
            raise ValueError(f"not a state of the {self._kind} rule: {error}") from error

    def _arrive(self, track: Track, now: Moment, present: set[int]) -> _Face:
        """A track not seen before: a new face, or one that was lost a moment ago and takes up what that one had."""
        old = self._lost_at(track.xyxy, RETURN_DISTANCE, now.stream_s - self._config.return_s, now, present)
        if old is None:
            face = _Face(track.xyxy, now.stream_s, now, track.confidence)
        else:
            face = self._handed_over(old, now)
            face.first_s = now.stream_s
        self._state.faces[track.id] = face
        return face

    def _note_scene(self, result: Result, present: set[int]) -> None:
        """Nobody returns from another scene: one in which not one of several tracks is even carried forward."""
        if len(self._state.found) > 1 and present and not {t.id for t in result.tracks} & set(self._state.found):
            self._state.scene_s = result.frame.time_s
        self._state.found = sorted(present)

    def _lost_at(self, box: Box, reach: float, since_s: float, now: Moment, present: set[int]) -> _Face | None:
        """A face that was lost within ``reach`` face sizes of there, not before ``since_s``, and has something to take
        up: an episode, a cool-down, a mask that was worn."""
        for track_id, face in self._state.faces.items():
            known = face.episode is not None or self._is_quiet(face, now.stream_s) or self._has_worn(face)
            recent = face.seen.stream_s >= max(since_s, self._state.scene_s)
            if known and recent and track_id not in present and _about_same_place(face.box, box, reach):
                return face
        return None

    def _handed_over(self, old: _Face, now: Moment) -> _Face:
        """What ``old`` had, for the track that it is now; ``old`` itself stays quiet."""
        face = msgspec.structs.replace(old)
        old.episode = None
        old.quiet_until_s = now.stream_s + self._config.cooldown_s
        return face

    def _see(self, face: _Face, track: Track, now: Moment) -> None:
        """Takes in that the face was found now."""
        unseen_s = now.stream_s - face.seen.stream_s
        face.box, face.seen = track.xyxy, now
        if unseen_s > self._config.gone_s:
            face.bare, face.masked, face.bare_s, face.masked_s = None, None, 0.0, 0.0
        if track.confidence < self._config.confidence_min:
            return
        look_s = min(unseen_s, LOOK_S_MAX)
        face.confidence = track.confidence
        if track.class_id == self._bare_class_id:
            face.best = track.confidence if face.bare is None else max(face.best, track.confidence)
            face.bare = face.bare or now
            face.bare_s = min(face.bare_s + look_s, self._config.confirm_s)
            face.masked_s -= look_s
            if face.masked_s <= 0:
                face.masked_s, face.masked = 0.0, None
        else:
            face.masked = face.masked or now
            face.masked_s = min(face.masked_s + look_s, self._config.clear_s)
            face.worn_s += look_s
            face.bare_s -= look_s
            if face.bare_s <= 0:
                face.bare_s, face.bare = 0.0, None

    def _judge(self, face: _Face, track_id: int, now: Moment, present: set[int]) -> list[Event]:
        """Opens, goes on with or ends the face's episode."""
        episode = face.episode
        if episode is None:
            return self._begin(face, track_id, now, present)
        if face.masked is not None and face.masked_s >= self._config.clear_s:
            return [self._end(face, face.masked, now.stream_s, "masked")]
        if face.bare is not None:
            episode.best = max(episode.best, face.best)
        if now.stream_s - episode.said_s >= self._config.update_s:
            episode.said_s = now.stream_s
            episode.number += 1
            return [self._event(face, episode, "update", now.stream_s)]
        return []

    def _begin(self, face: _Face, track_id: int, now: Moment, present: set[int]) -> list[Event]:
        """Opens an episode where the face is confirmed, unless it is one that is known already."""
        if face.bare is None or face.bare_s < self._config.confirm_s or self._is_quiet(face, now.stream_s):
            return []
        # its track may have begun beside the one that has vanished since
        old = self._lost_at(face.box, BESIDE_DISTANCE, face.first_s, now, present)
        if old is not None:
            had = self._handed_over(old, now)
            face.episode, face.quiet_until_s, face.worn_s = had.episode, had.quiet_until_s, face.worn_s + had.worn_s
        due = self._worn_s is None or self._has_worn(face)
        if face.episode is not None or not due or self._is_quiet(face, now.stream_s):
            return []
        return [self._open(face, track_id, now.stream_s)]

    def _open(self, face: _Face, track_id: int, stream_s: float) -> Event:
        assert face.bare is not None
        self._state.episodes += 1
        key = f"{self._source_id}/{self._state.episodes}"
        face.episode = _Episode(self._make_id(face.bare.wall_ns, key), track_id, face.bare, face.best, stream_s)
        face.worn_s = 0.0
        return self._event(face, face.episode, "new", stream_s)

    def _end(self, face: _Face, end: Moment, stream_s: float, reason: str) -> Event:
        episode = face.episode
        assert episode is not None
        face.episode = None
        face.quiet_until_s = end.stream_s + self._config.cooldown_s
        return self._event(face, episode, "end", stream_s, end, reason)

    def _event(
        self,
        face: _Face,
        episode: _Episode,
        phase: Phase,
        stream_s: float,
        end: Moment | None = None,
        reason: str | None = None,
    ) -> Event:
        return Event(
            id=episode.id,
            phase=phase,
            kind=self._kind,
            source=self._source_id,
            track=episode.track,
            t_start=rfc3339(episode.began.wall_ns),
            t_end=None if end is None else rfc3339(end.wall_ns),
            stream_s=stream_s,
            confidence=face.confidence,
            confidence_best=episode.best,
            reason=reason,
            number=episode.number if phase == "update" else 0,
            faces=len(self._state.found),
        )

    def _has_worn(self, face: _Face) -> bool:
        return self._worn_s is not None and face.worn_s >= self._worn_s

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


def _about_same_place(a: Box, b: Box, reach: float) -> bool:
    """Whether two boxes may show one face, their middles at most ``reach`` face sizes apart."""
    size_a = sqrt((a[2] - a[0]) * (a[3] - a[1]))
    size_b = sqrt((b[2] - b[0]) * (b[3] - b[1]))
    reach_px = reach * max(size_a, size_b)
    near = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4 <= reach_px**2
    return near and max(size_a, size_b) <= RETURN_SIZE_RATIO * min(size_a, size_b)
