"""Whole runs in which not every frame is looked at."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.transport.results import latency_quantiles_ms
from tests.numbered import read_numbered
from tests.runs import Outcome, Program, kill, told_in, wait_until


def write_site(program: Program, source: dict[str, Any], detect: dict[str, Any], **more: Any) -> None:
    site = {
        "name": "hall",
        "sources": {"gate": source},
        "detectors": {"mask": {"model": "facemask", "in_flight": 2}},
        "rules": {"no_mask": {"kind": "no_mask"}},
        "sinks": {"log": {"kind": "jsonl", "path": "events.jsonl"}, **more},
        "pipelines": {
            "all": {
                "sources": ["gate"], "detector": "mask", "rules": ["no_mask"], "sinks": ["log", *more],
                "detect": detect,
            }
        },
    }  # fmt: skip
    (program.cwd / "hall.yaml").write_text(yaml.safe_dump(site))


def run_film(program: Program, film: Path, killed_at: int | None = None) -> Outcome:
    """A file looked at five times a second; inference may be killed behind so many results."""
    (program.cwd / "events.jsonl").unlink(missing_ok=True)
    recorder = {"video": {"kind": "recorder", "path": "out.mp4", "overwrite": True}}
    write_site(program, {"kind": "file", "path": str(film)}, {"max_fps": 5}, **recorder)
    run = program.start("run", "hall.yaml", "--json")
    if killed_at is not None:
        with run.results("gate") as results:
            inference = run.await_stage("inference")
            wait_until(lambda: results.published >= killed_at, "some results")
            kill(inference)
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    return outcome


def test_a_file_has_the_same_events_at_five_looks_a_second_whatever_happens(
    bare_program: Program, face_video: Path
) -> None:
    outcome = run_film(bare_program, face_video)
    frames = outcome.report["frames"]
    assert (frames["detected"], frames["skipped"], frames["written"]) == (20, {"rate": 80}, 100)
    told = told_in(bare_program.cwd / "events.jsonl")
    assert [event.phase for event in told] == ["new", "end"]
    for killed_at in (12, 31):
        outcome = run_film(bare_program, face_video, killed_at)
        frames = outcome.report["frames"]
        assert (frames["detected"], frames["skipped"], frames["written"]) == (20, {"rate": 80}, 100)
        assert [event[1:] for event in told_in(bare_program.cwd / "events.jsonl")] == [event[1:] for event in told]
    recorded = [frame.number for frame in read_numbered(bare_program.cwd / "out.mp4")]
    assert recorded == list(range(100))


def until_detected(program: Program, count: int) -> tuple[list[float | None], dict[str, int]]:
    """Runs the site until so many looks; how old frames were when a look at them began, and what was skipped."""
    run = program.start("run", "hall.yaml")
    with run.results("gate") as results:
        wait_until(lambda: results.published >= count, f"{count} results")
        ages, skipped = latency_quantiles_ms(results.age_counts, [0.5, 0.9]), results.skipped
        run.signal(signal.SIGINT)
        assert run.finish().code == 0
    return ages, skipped


def test_a_look_begins_at_a_fresh_frame(bare_program: Program) -> None:
    """Other work may share the processors: the bound of the median is that of the 99th hundredth on a quiet machine."""
    source = {"kind": "lavfi", "graph": "testsrc2=size=640x360:rate=25"}
    write_site(bare_program, source, {"max_fps": 10})
    (median_ms, most_ms), skipped = until_detected(bare_program, 150)
    assert median_ms is not None
    assert most_ms is not None
    assert median_ms <= 60
    assert most_ms <= 400
    assert skipped["rate"] >= 60


@pytest.mark.parametrize(("graph", "still"), [("color=gray:size=640x360:rate=25", True), ("testsrc2=rate=25", False)])
def test_a_scene_that_stands_still_is_left_alone(bare_program: Program, graph: str, still: bool) -> None:
    write_site(
        bare_program, {"kind": "lavfi", "graph": graph}, {"motion": "gate", "tiles": "2x1", "region": [0, 0, 1, 0.9]}
    )
    _, skipped = until_detected(bare_program, 100)
    assert (skipped.get("still", 0) >= 90) == still
