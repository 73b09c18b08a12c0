"""Zones and schedules: the same rules, told where and when."""

from __future__ import annotations

from typing import Any

import pytest
from analytics_scenes import LABELS, WALL_NS, analytics, at, feed, span, story

from pipeline import plugins
from pipeline.analytics.source import Model, SourceAnalytics, build
from pipeline.areas import Area
from pipeline.errors import ConfigError
from pipeline.schedule import Schedule
from pipeline.types import Event
from pipeline.ulid import id_factory

LEFT = Area(polygon=[(0, 0), (0.5, 0), (0.5, 1), (0, 1)])
RIGHT = Area(polygon=[(0.5, 0), (1, 0), (1, 1), (0.5, 1)])
YARD = Area(polygon=[(0, 0), (1, 0), (1, 1)], source="yard")


def zoned(*zones: str, **config: Any) -> SourceAnalytics:
    about = {"zones": {"left": LEFT, "right": RIGHT, "yard": YARD}}
    return analytics(about=about, zones=zones, **config)


def told(events: list[Event]) -> list[tuple[str | None, str]]:
    return [(event.zone, event.reason or event.phase) for event in events]


def test_a_rule_looks_only_at_its_zone() -> None:
    stream = zoned("left")
    assert told(feed(stream, span(0, 3, [at(300), at(900)]))[1]) == [("left", "new")]
    assert told(stream.finish()) == [("left", "end_of_stream")]


def test_who_goes_on_into_another_zone_is_an_episode_there_with_a_cool_down_of_its_own() -> None:
    stream = zoned("left", "right")
    walk = [look for k in range(100) for look in span(k / 25, (k + 1) / 25, [at(400 + 5 * k)])]
    events = feed(stream, walk + span(4, 9, [at(900)]))[1]
    assert told(events) == [("left", "new"), ("right", "new"), ("left", "gone")]
    assert events[0].track == events[1].track
    assert events[0].id != events[1].id
    assert events[0].faces == 1


def test_without_zones_it_looks_everywhere() -> None:
    assert told(feed(zoned(), span(0, 3, [at(300), at(900)]))[1]) == [(None, "new"), (None, "new")]


def test_a_zone_of_another_source_is_no_place_here() -> None:
    assert feed(zoned("yard"), span(0, 3, [at(900)]))[1] == []


def test_a_zone_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="rule no_mask: 'door' is not a zone here; there are: left, right, yard"):
        zoned("door")


def closing_at(time: str) -> Schedule:
    return Schedule.model_validate({"time_zone": "UTC", "open": [{"from": "06:00", "to": time}]})


def test_a_schedule_that_closes_ends_what_is_open_and_raises_nothing_more() -> None:
    assert WALL_NS // 10**9 % 86400 == 8 * 3600, "the scenes begin at 8 o'clock"
    stream = analytics(schedule=closing_at("08:01"), cooldown_s=0)
    assert story(feed(stream, span(55, 70, [at(400)]))[1]) == ["new", "off_schedule"]
    assert feed(stream, span(70, 80, [at(400)]), 500)[1] == []


def test_a_rules_own_schedule_goes_before_the_pipelines() -> None:
    about = {"schedule": closing_at("07:00")}
    assert feed(analytics(about=about), span(0, 3, [at(400)]))[1] == []
    assert story(feed(analytics(about=about, schedule=closing_at("09:00")), span(0, 3, [at(400)]))[1]) == ["new"]


def test_the_model_is_named() -> None:
    rule = plugins.load("rule", "no_mask")
    model = Model("facemask", "ab" * 32)
    stream = build("gate", LABELS, {"no_mask": (rule, rule.config())}, id_factory(b"t"), model=model)
    (new,) = feed(stream, span(0, 1, [at(400)]))[1]
    assert (new.model, new.model_sha256) == model
