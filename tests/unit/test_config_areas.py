"""Zones, privacy and schedules of a pipeline: what is refused, and how."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline import config
from pipeline.errors import ConfigError

DOOR = {"polygon": [[0.1, 0.1], [0.4, 0.1], [0.4, 0.9]]}
SITE: dict[str, Any] = {
    "name": "entrance",
    "sources": {"gate": {"kind": "lavfi", "graph": "testsrc2"}, "yard": {"kind": "lavfi", "graph": "testsrc2"}},
    "detectors": {"mask": {"model": "facemask"}},
    "rules": {"bare": {"kind": "no_mask", "zones": ["door"]}},
    "pipelines": {
        "one": {
            "sources": ["gate"],
            "detector": "mask",
            "rules": ["bare"],
            "zones": {"door": DOOR},
            "privacy": {"window": {**DOOR, "source": "gate"}},
            "schedule": {"time_zone": "Europe/Berlin", "open": [{"days": "mon-fri", "from": "07:00", "to": "19:00"}]},
            "blur": "masked",
        },
        "two": {"sources": ["yard"], "detector": "mask"},
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SITE with the value at ``path`` changed; a path through ``pipelines.one`` leaves that out."""
    values = copy.deepcopy(SITE)
    *steps, last = path.split(".")
    part = values if path.startswith(("rules", "sources")) else values["pipelines"]["one"]
    for step in steps:
        part = part[step]
    part[last] = value
    return values


def test_what_is_configured_stands_in_the_pipeline() -> None:
    pipeline = config.check(SITE, "site.yaml").pipelines["one"]
    assert pipeline.zones["door"].holds(0.39, 0.4)
    assert pipeline.privacy["window"].source == "gate"
    assert pipeline.schedule is not None
    assert pipeline.blur == "masked"
    assert config.check(SITE, "site.yaml").pipelines["two"].blur == "none"


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            changed("zones.door", {"polygon": [[0, 0], [1, 1], [1, 0], [0, 1]]}),
            "pipelines.one.zones.door: the polygon's edges cross each other; give its corners in order",
        ),
        (
            changed("zones.door", {"polygon": [[0, 0], [1, 0], [1280, 0.5]]}),
            "pipelines.one.zones.door.polygon[2][0]: 1280: input should be less than or equal to 1",
        ),
        (
            changed("privacy.window.source", "yard"),
            "pipelines.one.privacy.window.source: 'yard' is not a source of this pipeline; there are: gate",
        ),
        (
            changed("rules.bare.zones", ["gate"]),
            "pipelines.one.rules[0]: bare looks at zone 'gate', which this pipeline has not; there are: door",
        ),
        (
            changed("schedule.time_zone", "Berlin"),
            "pipelines.one.schedule: 'Berlin' is not an IANA time zone; write one such as Europe/Berlin",
        ),
        (
            changed("schedule.open", [{"from": "7 o'clock"}]),
            "pipelines.one.schedule.open[0].from: \"7 o'clock\" is not a time of day; write '07:30', at most '24:00'",
        ),
        (
            changed("rules.bare.schedule", {"time_zone": "UTC", "open": [{"days": "weekend"}]}),
            "rules.bare.schedule.open[0].days: 'weekend' is not a day; there are: mon, tue, wed, thu, fri, sat, sun, "
            "and spans such as mon-fri",
        ),
        (changed("blur", "faces"), "pipelines.one.blur: 'faces' is none of 'all', 'masked' or 'none'"),
    ],
)
def test_a_bad_one_is_refused_in_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.check(values, "site.yaml")
    assert str(caught.value) == f"site.yaml: {line}"
