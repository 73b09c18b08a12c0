from __future__ import annotations

import random

import msgspec
import pytest
from analytics_scenes import BARE, MASK, SIZE_WH, Face, Look, found, streams
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analytics.tracking import KEPT_S, MISSED_SHOWN_S, UNLOOKED_SHOWN_S, Tracker
from pipeline.types import Detections, Track

FACE: Face = (400.0, 300.0, 80.0, 0.9, BARE)


def follow(tracker: Tracker, looks: list[Look]) -> list[tuple[Track, ...]]:
    return [tracker.update(k.time_s, None if k.faces is None else found(k.faces), SIZE_WH) for k in looks]


def still(face: Face, seconds: float, fps: float, start_s: float = 0.0) -> list[Look]:
    return [Look(start_s + k / fps, [face]) for k in range(round(seconds * fps))]


@pytest.mark.parametrize("fps", [25, 5])
def test_one_face_is_one_track_through_jitter_and_misses(fps: int) -> None:
    chance = random.Random(1)
    looks = [
        Look(k / fps, [(400 + chance.gauss(0, 4), 300 + chance.gauss(0, 4), 80.0, 0.9, BARE)] * (chance.random() > 0.2))
        for k in range(10 * fps)
    ]
    assert {track.id for tracks in follow(Tracker(2), looks) for track in tracks} == {1}


def test_both_classes_on_one_face_are_one_track_of_the_stronger() -> None:
    looks = [Look(k / 25, [(400, 300, 80, 0.6, MASK), (404, 300, 80, 0.8, BARE)]) for k in range(10)]
    for tracks in follow(Tracker(2), looks):
        assert [(track.id, track.class_id) for track in tracks] == [(1, BARE)]


@pytest.mark.parametrize("fps", [25, 5])
def test_behind_a_cut_nobody_goes_on_and_nobody_is_carried(fps: int) -> None:
    before: list[Face] = [(300.0, 300.0, 80.0, 0.9, BARE), (900.0, 300.0, 80.0, 0.9, BARE)]
    after: list[Face] = [(370.0, 300.0, 80.0, 0.9, MASK), (830.0, 300.0, 80.0, 0.9, MASK)]
    tracker = Tracker(2)
    follow(tracker, [Look(k / fps, before) for k in range(fps)])
    (tracks,) = follow(tracker, [Look(1.0, after)])
    assert [(track.id, track.class_id, track.detected) for track in tracks] == [(3, MASK, True), (4, MASK, True)]


def test_two_who_walk_on_and_one_who_stays_are_no_cut() -> None:
    tracker = Tracker(2)
    follow(tracker, [Look(k / 5, [(300.0, 300.0, 80.0, 0.9, BARE), (900.0, 300.0, 80.0, 0.9, BARE)]) for k in range(5)])
    (tracks,) = follow(tracker, [Look(1.0, [(370.0, 300.0, 80.0, 0.9, BARE), (900.0, 300.0, 80.0, 0.9, BARE)])])
    assert [track.id for track in tracks] == [1, 2]


@pytest.mark.parametrize("fps", [25, 5])
def test_a_flickering_class_does_not_change_the_track_s(fps: int) -> None:
    looks = [Look(k / fps, [(400, 300, 80, 0.9, BARE if k % 4 == 3 else MASK)]) for k in range(8 * fps)]
    assert {track.class_id for tracks in follow(Tracker(2), looks) for track in tracks} == {MASK}


@pytest.mark.parametrize("fps", [25, 5])
def test_a_lasting_change_of_class_is_followed_within_half_a_second(fps: int) -> None:
    looks = still((400, 300, 80, 0.9, BARE), 4, fps) + still((400, 300, 80, 0.9, MASK), 2, fps, 4.0)
    classes = {look.time_s: t[0].class_id for look, t in zip(looks, follow(Tracker(2), looks), strict=True)}
    changed_s = min(time_s for time_s, class_id in classes.items() if class_id == MASK)
    assert 4.2 <= changed_s <= 4.7


def test_people_who_cross_keep_their_ids() -> None:
    looks = [Look(k / 25, [(200 + 8 * k, 300, 80, 0.9, BARE), (1000 - 8 * k, 330, 70, 0.9, MASK)]) for k in range(101)]
    tracks = follow(Tracker(2), looks)
    classes = {t.id: t.class_id for t in tracks[0]}
    assert sorted(classes.values()) == [MASK, BARE]
    assert {t.id: t.class_id for t in tracks[-1]} == classes
    assert all(len(now) == 2 for now in tracks)


@pytest.mark.parametrize("fps", [25, 5])
def test_a_walker_is_followed_at_eight_faces_a_second(fps: int) -> None:
    looks = [Look(k / fps, [(100 + 320 * k / fps, 300, 40, 0.9, BARE)]) for k in range(3 * fps)]
    assert {track.id for tracks in follow(Tracker(2), looks) for track in tracks} == {1}


def test_a_single_false_positive_is_reported_in_its_frame_alone() -> None:
    tracks = follow(Tracker(2), [Look(0.0, []), Look(0.04, [FACE]), Look(0.08, None), Look(0.12, [])])
    assert [[t.detected for t in now] for now in tracks] == [[], [True], [], []]


def test_weak_detections_keep_a_track_but_begin_none() -> None:
    weak: Face = (400.0, 300.0, 80.0, 0.35, BARE)
    assert not any(follow(Tracker(2), still(weak, 1, 25)))
    tracks = follow(Tracker(2), still(FACE, 1, 25) + still(weak, 2, 25, 1.0))
    assert [(t.id, t.detected) for t in tracks[-1]] == [(1, True)]
    assert tracks[-1][0].confidence == pytest.approx(0.35)


@pytest.mark.parametrize(("faces", "shown_s"), [([], MISSED_SHOWN_S), (None, UNLOOKED_SHOWN_S)])
def test_a_track_is_carried_for_seconds_not_frames(faces: list[Face] | None, shown_s: float) -> None:
    for fps in (25, 5):
        looks = still(FACE, 1, fps)
        last_s = looks[-1].time_s
        looks += [Look(last_s + k / fps, faces) for k in range(1, 3 * fps)]
        shown = [k.time_s - last_s for k, t in zip(looks, follow(Tracker(2), looks), strict=True) if t]
        assert shown_s - 1 / fps < max(shown) + 1e-6 <= shown_s + 1e-6


def test_a_face_comes_back_under_its_id_for_a_while_and_an_id_is_never_used_again() -> None:
    looks = still(FACE, 1, 25) + still(FACE, 1, 25, KEPT_S + 0.9) + still(FACE, 1, 25, 20.0)
    looks = [*looks[:25], Look(1.1, []), *looks[25:50], Look(10.0, []), *looks[50:]]
    ids = [track.id for tracks in follow(Tracker(2, first_id=7), looks) for track in tracks]
    assert sorted(set(ids)) == [7, 8]
    assert ids == sorted(ids)


def test_a_carried_track_follows_its_motion_and_stays_in_the_frame() -> None:
    looks = [Look(k / 25, [(1100 + 6 * k, 300, 80, 0.9, BARE)]) for k in range(25)]
    carried = Tracker(2)
    follow(carried, looks)
    seen = [t for k in range(25, 50) for t in carried.update(k / 25, None, SIZE_WH)]
    assert [t.xyxy[0] for t in seen] == sorted(t.xyxy[0] for t in seen)
    assert seen[-1].xyxy[0] > seen[0].xyxy[0]
    assert all(t.xyxy[2] <= SIZE_WH[0] and not t.detected for t in seen)


def test_a_source_that_changes_its_size_keeps_its_tracks() -> None:
    tracker = Tracker(2)
    follow(tracker, still(FACE, 1, 25))
    half: Face = (200.0, 150.0, 40.0, 0.9, BARE)
    assert [t.id for t in tracker.update(1.0, found([half]), (640, 360))] == [1]


def test_time_that_does_not_go_up_is_refused() -> None:
    tracker = Tracker(2)
    tracker.update(1.0, Detections.none(), SIZE_WH)
    with pytest.raises(ValueError, match="time must go up"):
        tracker.update(1.0, None, SIZE_WH)


@pytest.mark.parametrize("state", [None, {}, {"next_id": 1, "version": 2}, {"next_id": "one"}])
def test_a_foreign_state_is_refused(state: object) -> None:
    with pytest.raises(ValueError, match="not a tracker's state"):
        Tracker(2).restore(state)


def test_a_state_for_other_classes_is_refused() -> None:
    tracker = Tracker(2)
    follow(tracker, still(FACE, 1, 5))
    with pytest.raises(ValueError, match="another number of classes"):
        Tracker(3).restore(tracker.snapshot())


@settings(max_examples=60, deadline=None)
@given(streams(), st.integers(0, 25))
def test_a_restored_tracker_goes_on_bit_for_bit(looks: list[Look], split: int) -> None:
    whole = follow(Tracker(2), looks)
    first, second = Tracker(2), Tracker(2)
    before = follow(first, looks[:split])
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot())))
    assert before + follow(second, looks[split:]) == whole


@settings(max_examples=60, deadline=None)
@given(streams())
def test_ids_rise_and_boxes_have_an_area(looks: list[Look]) -> None:
    newest = 0
    for tracks in follow(Tracker(2), looks):
        ids = [track.id for track in tracks]
        assert ids == sorted(set(ids))
        assert all(t.xyxy[0] < t.xyxy[2] and t.xyxy[1] < t.xyxy[3] for t in tracks)
        newest = max([newest, *ids])
    assert newest <= sum(len(look.faces or ()) for look in looks)
