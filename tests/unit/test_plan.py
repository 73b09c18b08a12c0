"""What the stages of a run share, as the supervisor makes it before any of them starts."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pipeline import config, plan
from pipeline.transport.results import RULE_BYTES, TRACKS_BYTES, ResultLog

SITE = {
    "name": "hall",
    "sources": {"gate": {"kind": "lavfi", "graph": "testsrc2=rate=25"}},
    "detectors": {"mask": {"model": "facemask"}},
    "rules": {"everywhere": {"kind": "no_mask"}, "here": {"kind": "no_mask", "zones": ["till", "door"]}},
    "sinks": {"log": {"kind": "jsonl", "path": "e.jsonl"}},
    "pipelines": {
        "all": {
            "sources": ["gate"],
            "detector": "mask",
            "rules": ["everywhere", "here"],
            "sinks": ["log"],
            "zones": {zone: {"polygon": [[0, 0], [1, 0], [1, 1]]} for zone in ("till", "door")},
        }
    },
}


def test_each_rule_and_zone_finds_room_for_its_state(tmp_path: Path) -> None:
    plan.prepare(config.check(SITE, "hall.yaml"), tmp_path)
    state = b"x" * (TRACKS_BYTES + 3 * RULE_BYTES - 100)
    with closing(ResultLog.attach(tmp_path, "gate")) as results:
        results.commit_change(1, [], state)
        assert len(results.resume()) == len(state)
