from __future__ import annotations

import pytest
from analytics_scenes import BARE, MASK, Look, at, play, span, story

KIND = "mask_removed"


def test_a_mask_that_is_taken_off_is_told_once() -> None:
    looks = span(0, 3, [at(400, MASK)]) + span(3, 8, [at(400)])
    events = play(looks, KIND)
    assert story(events) == ["new", "end_of_stream"]
    assert {event.kind for event in events} == {KIND}
    assert events[0].stream_s < 4


@pytest.mark.parametrize("worn_s", [0.5, 2, 5])
@pytest.mark.parametrize("fps", [25, 5])
def test_a_mask_worn_for_long_does_not_end_it_at_once(worn_s: float, fps: float) -> None:
    looks = span(0, 10, [at(400, MASK)], fps) + span(10, 15, [at(400)], fps) + span(15, 20, [at(400, MASK)], fps)
    new, end = play(looks, KIND, worn_s=worn_s)
    assert (new.phase, end.reason) == ("new", "masked")
    assert new.stream_s < 11
    assert 15.4 < end.stream_s < 16.2


def test_who_never_wore_one_is_not_its_business() -> None:
    assert play(span(0, 10, [at(400)]), KIND) == []
    assert play(span(0, 0.6, [at(400, MASK)]) + span(0.6, 10, [at(400)]), KIND) == [], "not worn for long enough"


def test_it_ends_when_the_mask_is_back_and_is_told_again_behind_the_cool_down() -> None:
    off_and_on = span(0, 2, [at(400, MASK)]) + span(2, 4, [at(400)]) + span(4, 9, [at(400, MASK)])
    looks = [*off_and_on, *span(9, 12, [at(400)])]
    assert story(play(looks, KIND)) == ["new", "masked"]
    assert story(play(looks, KIND, cooldown_s=2)) == ["new", "masked", "new", "end_of_stream"]


def test_a_face_that_is_lost_for_a_moment_is_still_known_to_have_worn_one() -> None:
    looks = span(0, 3, [at(400, MASK)]) + span(3, 5.5, []) + span(5.5, 8, [at(420)])
    assert story(play(looks, KIND)) == ["new", "end_of_stream"]


def test_flicker_removes_nothing() -> None:
    looks = [Look(k / 25, [at(400, BARE if k % 10 in (3, 4, 7) else MASK)]) for k in range(500)]
    assert play(looks, KIND) == []
