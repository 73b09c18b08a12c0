from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml
from pydantic import ValidationError

from pipeline.schedule import Schedule


def schedule(text: str, time_zone: str = "Europe/Berlin") -> Schedule:
    return Schedule.model_validate({"time_zone": time_zone, "open": yaml.safe_load(text)})


def is_open(given: Schedule, local: str, fold: int = 0) -> bool:
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(given.time_zone), fold=fold)
    return given.is_open(round(moment.timestamp()) * 10**9)


def test_days_and_hours() -> None:
    given = schedule("[{days: mon-fri, from: '07:30', to: '19:00'}]")
    assert is_open(given, "2026-11-23 07:30")  # a Monday
    assert is_open(given, "2026-11-27 18:59:59")
    assert not is_open(given, "2026-11-23 07:29:59")
    assert not is_open(given, "2026-11-27 19:00")
    assert not is_open(given, "2026-11-28 12:00")


def test_past_midnight_it_belongs_to_the_day_on_which_it_began() -> None:
    given = schedule("[{days: [fri, sat], from: 22:00, to: 02:00}]")
    assert is_open(given, "2026-11-27 23:00")
    assert is_open(given, "2026-11-29 01:59")
    assert not is_open(given, "2026-11-29 02:00")
    assert not is_open(given, "2026-11-27 01:00"), "that is Thursday's night"
    assert not is_open(given, "2026-11-29 22:30")


def test_it_goes_by_the_clocks_of_the_place_when_they_change() -> None:
    given = schedule("[{from: '02:00', to: '03:00'}]")
    assert is_open(given, "2026-10-25 02:30", fold=0)
    assert is_open(given, "2026-10-25 02:30", fold=1), "the hour that comes twice"
    assert not is_open(given, "2026-10-25 03:00")
    # on 2026-03-29 two o'clock is three o'clock: that hour is left out
    spring_ns = round(datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("UTC")).timestamp()) * 10**9
    assert not given.is_open(spring_ns - 45 * 60 * 10**9)
    assert not given.is_open(spring_ns)


def test_summer_and_winter_begin_at_the_same_local_hour() -> None:
    given = schedule("[{from: '08:00', to: '09:00'}]")
    assert is_open(given, "2026-07-01 08:00")
    assert is_open(given, "2026-12-01 08:00")


@pytest.mark.parametrize("written", ["22:00", "'22:00'"])
def test_yaml_may_read_a_time_as_a_number(written: str) -> None:
    assert is_open(schedule(f"[{{from: {written}, to: 24:00}}]"), "2026-11-23 23:59")


def test_a_span_of_days_may_go_over_the_weekend() -> None:
    given = schedule("[{days: sat-mon}]")
    assert [is_open(given, f"2026-11-{day} 12:00") for day in (27, 28, 29, 30)] == [False, True, True, True]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"time_zone": "Europe/Nowhere", "open": [{}]}, "'Europe/Nowhere' is not an IANA time zone"),
        ({"time_zone": "../../etc/passwd", "open": [{}]}, "is not an IANA time zone"),
        ({"time_zone": "", "open": [{}]}, "is not an IANA time zone"),
        ({"time_zone": "UTC", "open": []}, "at least 1"),
        ({"time_zone": "UTC", "open": [{"days": "monday"}]}, "'monday' is not a day; there are: mon"),
        ({"time_zone": "UTC", "open": [{"from": "25:00"}]}, "'25:00' is not a time of day"),
        ({"time_zone": "UTC", "open": [{"to": "24:01"}]}, "'24:01' is not a time of day"),
        ({"time_zone": "UTC", "open": [{"from": True}]}, "True is not a time of day"),
        ({"time_zone": "UTC", "open": [{"from": "08:00", "to": "08:00"}]}, "are the same time"),
    ],
)
def test_what_is_no_schedule_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Schedule.model_validate(given)
