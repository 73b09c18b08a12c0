"""What may change while a site runs, and which stages it concerns."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pipeline import config
from pipeline.errors import ConfigError
from pipeline.reload import Change, change

HALL: dict[str, Any] = {
    "name": "hall",
    "sources": {
        "gate": {"kind": "lavfi", "graph": "testsrc2=rate=25"},
        "yard": {"kind": "lavfi", "graph": "testsrc2=rate=10"},
    },
    "detectors": {"mask": {"model": "facemask"}},
    "rules": {"no_mask": {"kind": "no_mask"}},
    "sinks": {"video": {"kind": "recorder", "directory": "video"}, "log": {"kind": "jsonl", "path": "e.jsonl"}},
    "pipelines": {
        "all": {"sources": ["gate", "yard"], "detector": "mask", "rules": ["no_mask"], "sinks": ["video", "log"]}
    },
}


def hall(**sources: Any) -> dict[str, Any]:
    """HALL with other sources in its pipeline."""
    values = copy.deepcopy(HALL)
    if sources:
        values["sources"] = sources
        values["pipelines"]["all"]["sources"] = list(sources)
    return values


def planned(new: dict[str, Any], *, waiting: tuple[str, ...] = (), ending: tuple[str, ...] = ()) -> Change:
    old = config.check(HALL, "old.yaml")
    return change(old, config.check(new, "hall.yaml"), waiting=waiting, ending=ending)


def refusal(new: dict[str, Any], **known: tuple[str, ...]) -> str:
    with pytest.raises(ConfigError) as caught:
        planned(new, **known)
    return str(caught.value)


def names(specs: list[Any]) -> list[str]:
    return [spec.name for spec in specs]


GATE, YARD = HALL["sources"]["gate"], HALL["sources"]["yard"]
ROOF = {"kind": "lavfi", "graph": "testsrc2=rate=5"}


def test_nothing_is_nothing() -> None:
    plan = planned(hall())
    assert [plan.added, plan.removed, plan.started, plan.again, plan.told] == [[]] * 5
    assert str(plan) == "nothing has changed"


def test_a_source_more_starts_its_own_stages_and_tells_the_shared_ones() -> None:
    plan = planned(hall(gate=GATE, yard=YARD, roof=ROOF))
    assert (plan.added, plan.removed) == (["roof"], [])
    assert sorted(names(plan.started)) == ["annotator/roof", "capture/roof"]
    assert names(plan.told) == ["inference/all"]
    assert names(plan.again) == ["events"]
    assert str(plan) == "added: roof"


def test_a_source_less_ends() -> None:
    plan = planned(hall(gate=GATE))
    assert (plan.removed, plan.started, names(plan.told)) == (["yard"], [], ["inference/all"])


def test_a_source_that_changes_is_captured_anew_and_nothing_else_happens() -> None:
    plan = planned(hall(gate=GATE, yard=ROOF))
    assert (plan.added, plan.removed, plan.started, plan.told) == ([], [], [], [])
    assert names(plan.again) == ["capture/yard"]
    assert str(plan) == "changed: yard"


def test_a_pipeline_of_its_own_may_come_and_go() -> None:
    values = hall()
    values["sources"]["roof"] = ROOF
    values["sinks"]["other"] = {"kind": "jsonl", "path": "roof.jsonl"}
    values["pipelines"]["up"] = {"sources": ["roof"], "detector": "mask", "sinks": ["other"]}
    plan = planned(values)
    assert sorted(names(plan.started)) == ["capture/roof", "inference/up"]
    assert (plan.told, names(plan.again)) == ([], ["events"])
    back = change(config.check(values, "old.yaml"), config.check(hall(), "hall.yaml"), waiting=(), ending=())
    assert back.removed == ["roof"]


def changed(*path: str, to: Any) -> dict[str, Any]:
    values = hall()
    part = values
    for step in path[:-1]:
        part = part.setdefault(step, {})
    part[path[-1]] = to
    return values


@pytest.mark.parametrize(
    ("path", "to", "where"),
    [
        (("name",), "house", "name"),
        (("rules", "no_mask", "confirm_s"), 3, "rules.no_mask"),
        (("detectors", "mask", "confidence_min"), 0.7, "detectors.mask"),
        (("sinks", "video", "directory"), "elsewhere", "sinks.video"),
        (("pipelines", "all", "detect"), {"max_fps": 5}, "pipelines.all.detect"),
        (("operation",), {"metrics_port": 0}, "operation"),
    ],
)
def test_anything_else_takes_a_restart(path: tuple[str, ...], to: Any, where: str) -> None:
    assert refusal(changed(*path, to=to)) == (
        f"hall.yaml: {where}: cannot change while the site runs, as sources can; nothing of this file is taken up "
        "before a restart"
    )


def test_every_reason_is_told_at_once() -> None:
    values = changed("rules", "no_mask", "confirm_s", to=3)
    values["name"] = "house"
    values["sources"]["yard"] = ROOF
    sections, source = refusal(values, waiting=("yard",)).splitlines()
    assert sections.startswith("hall.yaml: name, rules.no_mask: cannot change while the site runs")
    assert source.startswith("hall.yaml: sources.yard: is a file that is being read")


def test_a_file_that_is_being_read_stays_that_file_until_it_has_ended() -> None:
    assert refusal(hall(gate=GATE, yard=ROOF), waiting=("yard",)) == (
        "hall.yaml: sources.yard: is a file that is being read, and cannot change before it has ended"
    )
    old, new = config.check(HALL, "old.yaml"), config.check(hall(gate=GATE, yard=ROOF), "hall.yaml")
    assert change(old, new, waiting=("yard",), ending=(), ended=("yard",)).back == ["yard"]


def test_what_was_removed_has_to_come_to_its_end_before_it_comes_back() -> None:
    assert refusal(hall(gate=GATE, yard=YARD, roof=ROOF), ending=("capture/roof",)) == (
        "hall.yaml: capture/roof is still coming to its end; try again in a moment"
    )


def test_a_source_cannot_go_from_one_pipeline_to_another() -> None:
    values = hall()
    values["pipelines"]["all"]["sources"] = ["gate"]
    values["pipelines"]["up"] = {"sources": ["yard"], "detector": "mask"}
    assert "hall.yaml: sources.yard: goes to another pipeline" in refusal(values)


def test_a_source_comes_back_only_to_the_same_treatment() -> None:
    values = hall(gate=GATE, yard=YARD)
    values["sources"]["roof"] = ROOF
    values["pipelines"]["up"] = {"sources": ["roof"], "detector": "mask", "rules": ["no_mask"]}
    seen = {"roof": config.check(values, "older.yaml")}

    def back(new: dict[str, Any]) -> Change:
        return change(config.check(HALL, "old.yaml"), config.check(new, "hall.yaml"), waiting=(), ending=(), seen=seen)

    assert back(values).back == ["roof"]
    others: list[dict[str, Any]] = [{"rules": []}, {"sinks": ["log"]}, {"detect": {"max_fps": 5}}]
    for pipeline in others:
        other = copy.deepcopy(values)
        other["pipelines"]["up"] |= pipeline
        with pytest.raises(ConfigError, match="was in this run before, under other rules, zones or sinks"):
            back(other)


def test_a_changed_source_that_has_ended_begins_anew() -> None:
    old, new = config.check(HALL, "old.yaml"), config.check(hall(gate=GATE, yard=ROOF), "hall.yaml")
    plan = change(old, new, waiting=(), ending=(), ended=["yard"])
    assert plan.back == ["yard"]
    assert sorted(names(plan.again)) == ["annotator/yard", "capture/yard", "events"]
    assert names(plan.told) == ["inference/all"]
    with pytest.raises(ConfigError, match="annotator/yard is still coming to its end"):
        change(old, new, waiting=(), ending=["annotator/yard"], ended=["yard"])
