from __future__ import annotations

import pytest
from analytics_scenes import MASK, Face, Look, at, play, span, story
from pydantic import ValidationError

from pipeline import plugins

KIND = "compliance"


def crowd(bare: int, masked: int) -> list[Face]:
    return [at(100 + 200 * i) for i in range(bare)] + [at(100 + 200 * (bare + i), MASK) for i in range(masked)]


def test_too_many_without_a_mask_are_one_episode_about_nobody_in_particular() -> None:
    new, end = play(span(0, 20, crowd(3, 1)), KIND)
    assert (new.kind, new.track, new.faces, new.share) == (KIND, None, 4, 0.75)
    assert new.stream_s == pytest.approx(5, abs=0.1), "half a window has been looked at"
    assert (end.reason, end.id) == ("end_of_stream", new.id)


@pytest.mark.parametrize("fps", [25, 5])
def test_it_ends_when_enough_have_put_one_on_with_a_threshold_of_its_own(fps: float) -> None:
    looks = span(0, 20, crowd(3, 1), fps) + span(20, 30, crowd(2, 2), fps) + span(30, 50, crowd(1, 3), fps)
    events = play(looks, KIND, update_s=60)
    assert story(events) == ["new", "complied"]
    assert 36 < events[1].stream_s < 40


def test_two_people_are_no_crowd_unless_asked_for() -> None:
    assert play(span(0, 30, crowd(2, 0)), KIND) == []
    assert story(play(span(0, 30, crowd(2, 0)), KIND, faces_min=1)) == ["new", "end_of_stream"]


def test_a_hall_that_empties_ends_it() -> None:
    assert story(play(span(0, 20, crowd(3, 0)) + span(20, 40, []), KIND)) == ["new", "few_faces"]


def test_it_is_quiet_for_a_while_behind_an_end() -> None:
    looks = span(0, 20, crowd(3, 0)) + span(20, 40, []) + span(40, 60, crowd(3, 0))
    assert story(play(looks, KIND)) == ["new", "few_faces"]
    assert story(play(looks, KIND, cooldown_s=5)) == ["new", "few_faces", "new", "end_of_stream"]


def test_frames_not_looked_at_count_for_nothing() -> None:
    looks = [Look(k / 25, crowd(3, 0) if k < 50 else None) for k in range(1000)]
    assert play(looks, KIND) == []


def test_the_threshold_out_lies_below_the_one_in() -> None:
    with pytest.raises(ValidationError, match=r"share_out \(0.6\) must be below share_in \(0.5\)"):
        plugins.load("rule", KIND).config.model_validate({"share_out": 0.6})
