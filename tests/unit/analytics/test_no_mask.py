from __future__ import annotations

import pytest
from analytics_scenes import BARE, LABELS, MASK, Look, analytics, at, feed, play, span, story
from pydantic import ValidationError

from pipeline import plugins
from pipeline.analytics.rules.no_mask import Config, create
from pipeline.errors import ConfigError
from pipeline.ulid import id_factory


def test_a_person_without_a_mask_is_one_episode() -> None:
    new, end = play(span(0, 10, [at(400)]))
    assert (new.phase, new.t_end, new.reason) == ("new", None, None)
    assert new.stream_s == pytest.approx(0.52, abs=0.03)
    assert (end.phase, end.reason, end.stream_s) == ("end", "end_of_stream", 9.96)
    assert new.id == end.id
    assert new.t_start == end.t_start == "2027-01-15T08:00:00.000Z"
    assert end.t_end == "2027-01-15T08:00:09.960Z"
    assert (new.kind, new.source, new.track) == ("no_mask", "gate", 1)


@pytest.mark.parametrize("fps", [25, 12.5, 5])
def test_putting_a_mask_on_ends_the_episode_whatever_the_rate(fps: float) -> None:
    new, end = play(span(0, 4, [at(400)], fps) + span(4, 8, [at(400, MASK)], fps))
    assert end.reason == "masked"
    assert 0.5 <= new.stream_s <= 0.8
    assert 4.5 <= end.stream_s <= 5.1


def test_a_masked_person_raises_nothing_even_if_the_class_flickers() -> None:
    looks = [Look(k / 25, [at(400, BARE if k % 10 in (3, 4, 7) else MASK)]) for k in range(500)]
    assert play(looks) == []


def test_an_episode_survives_flicker_and_misses() -> None:
    looks = [Look(k / 25, [at(400, MASK if k % 10 in (3, 4, 7) else BARE)][: k % 6]) for k in range(500)]
    assert story(play(looks)) == ["new", "end_of_stream"]


def test_a_glimpse_raises_nothing() -> None:
    assert play(span(0, 0.4, [at(400)]) + span(0.4, 10, [])) == []


def test_two_looks_with_a_long_gap_confirm_nothing() -> None:
    assert play([Look(0, [at(400)]), Look(0.9, [at(400)])]) == []


def test_a_look_with_a_mask_takes_back_what_one_without_gave() -> None:
    def looks(masked_of_ten: int) -> list[Look]:
        return [Look(k / 25, [at(400, MASK if k % 10 < masked_of_ten else BARE, 0.9)]) for k in range(250)]

    assert story(play(looks(2))) == ["new", "end_of_stream"]
    assert play(looks(5)) == []


def test_an_episode_that_goes_on_says_so() -> None:
    new, first, second, end = play(span(0, 7, [at(400)]) + span(7, 8, [at(400, confidence=0.95)]), update_s=3)
    assert [event.phase for event in (new, first, second, end)] == ["new", "update", "update", "end"]
    assert [event.number for event in (new, first, second, end)] == [0, 1, 2, 0]
    assert (new.id, new.t_start) == (second.id, second.t_start)
    assert [new.confidence, end.confidence_best] == pytest.approx([0.9, 0.95])
    assert (new.faces, first.t_end, first.t_update) == (1, None, "2027-01-15T08:00:03.520Z")


def test_weak_detections_confirm_nothing() -> None:
    assert play(span(0, 0.2, [at(400)]) + span(0.2, 5, [at(400, confidence=0.4)])) == []


def test_frames_not_looked_at_neither_confirm_nor_clear() -> None:
    assert play(span(0, 0.2, [at(400)]) + span(0.2, 30, None)) == []
    looks = span(0, 2, [at(400)]) + span(2, 30, None)
    stream = analytics()
    assert story(feed(stream, looks)[1]) == ["new"]


def test_who_leaves_ends_the_episode_where_the_face_was_last_found() -> None:
    _, end = play(span(0, 2, [at(400)]) + span(2, 10, []))
    assert (end.reason, end.t_end) == ("gone", "2027-01-15T08:00:01.960Z")
    assert end.stream_s == pytest.approx(5, abs=0.1)


def test_who_is_lost_for_a_moment_goes_on_under_a_new_track() -> None:
    events = play(span(0, 2, [at(400)]) + span(2, 4.5, []) + span(4.5, 8, [at(430)]))
    assert story(events) == ["new", "end_of_stream"]
    assert events[1].track == 1


def test_who_returns_soon_to_the_same_place_raises_nothing_in_the_cool_down() -> None:
    looks = span(0, 2, [at(400)]) + span(2, 6, []) + span(6, 20, [at(430)])
    assert story(play(looks, return_s=5)) == ["new", "gone"]
    assert story(play(looks, return_s=3)) == ["new", "gone", "new", "end_of_stream"]
    assert story(play(looks, cooldown_s=10)) == ["new", "gone", "new", "end_of_stream"]


def test_a_second_track_on_one_face_is_not_a_second_person() -> None:
    """The mask in a hand keeps the old track for a moment, the face beside it is a new one."""
    both = [at(400, MASK), at(435)]
    looks = span(0, 2, [at(400)]) + span(2, 4, [at(400, MASK)]) + span(4, 4.3, both) + span(4.3, 9, [at(435)])
    assert story(play(looks)) == ["new", "masked"]
    masked_before = span(0, 4, [at(400, MASK)]) + span(4, 4.3, both) + span(4.3, 9, [at(435)])
    assert story(play(masked_before, "mask_removed")) == ["new", "end_of_stream"]


def test_behind_a_cut_everybody_is_somebody_else() -> None:
    before, after = [at(300), at(900)], [at(380), at(820)]
    events = play(span(0, 2, before) + span(2, 4, after))
    assert story(events) == ["new", "new", "new", "new", *["end_of_stream"] * 4]
    assert story(play(span(0, 2, before) + span(2, 4, [at(380), at(900)]))) == ["new"] * 2 + ["end_of_stream"] * 2


def test_somebody_else_elsewhere_is_an_episode_of_its_own() -> None:
    looks = span(0, 2, [at(400)]) + span(2, 5.5, []) + span(5.5, 8, [at(800)])
    events = play(looks)
    assert story(events) == ["new", "gone", "new", "end_of_stream"]
    assert events[0].id < events[2].id


def test_the_cool_down_holds_for_the_same_track_and_ends() -> None:
    looks = span(0, 2, [at(400)]) + span(2, 5, [at(400, MASK)]) + span(5, 20, [at(400)])
    assert story(play(looks, cooldown_s=30)) == ["new", "masked"]
    events = play(looks, cooldown_s=6)
    assert story(events) == ["new", "masked", "new", "end_of_stream"]
    assert events[2].stream_s == pytest.approx(8.5, abs=0.3)
    assert events[2].t_start < "2027-01-15T08:00:05.600Z"


def test_two_people_are_two_episodes_with_two_ids() -> None:
    events = play(span(0, 3, [at(300), at(900)]))
    assert story(events) == ["new", "new", "end_of_stream", "end_of_stream"]
    assert len({event.id for event in events}) == 2


def test_a_jump_in_time_ends_what_was_open_and_raises_nothing_else() -> None:
    assert story(play(span(0, 2, [at(400)]) + span(600, 601, []))) == ["new", "gone"]


def test_ids_do_not_depend_on_how_the_stream_was_reached() -> None:
    looks = span(0, 3, [at(300), at(900)])
    assert play(looks) == play(looks)


def test_a_model_without_the_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="no class 'no_mask'; it has: cat, dog"):
        create(Config(), "gate", ("cat", "dog"), id_factory(b"run"))


def test_the_label_names_the_class() -> None:
    rule = create(Config(label="mask"), "gate", LABELS, id_factory(b"run"))
    assert rule.snapshot()["faces"] == {}


@pytest.mark.parametrize("given", [{"confirm_s": -1}, {"cooldown_s": float("inf")}, {"confirm": 1}, {"gone_s": 0}])
def test_a_wrong_configuration_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("rule", "no_mask").config.model_validate(given)
