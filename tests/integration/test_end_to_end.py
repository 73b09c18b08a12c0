"""Video in, annotated video, events and a report out: every frame once, in order, at its own time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import jsonschema
import pytest

from pipeline.sinks.schema import event_schema
from tests.media import quadrants, write_picture
from tests.numbered import HEIGHT, WIDTH, read_numbered, write_numbered
from tests.runs import Program
from tests.shared_data import shared

SHORT = ("nomask_intel_walking_480x270.gif", "cctv_entrance_mask_480x270.gif", "nomask_street_crowd_1920x1080.mp4")


def test_every_frame_comes_out_once_in_order_at_its_time(program: Program, face_video: Path) -> None:
    outcome = program.run("run", "--json", "--source", face_video, "--record", "out.mp4", "--events", "events.jsonl")
    assert outcome.code == 0, outcome.stderr
    report = outcome.report
    assert report["frames"] == {"decoded": 100, "detected": 100, "written": 100, "skipped": {}}
    assert report["exit"] == {"code": 0, "reason": None}
    assert report["restarts"] == {}
    assert report["faces"]["no_mask"] > 90
    assert report["fps"] > 0
    assert report["latency_ms"]["p50"] <= report["latency_ms"]["p95"] <= report["latency_ms"]["p99"]

    frames = read_numbered(program.cwd / "out.mp4")
    assert [frame.number for frame in frames] == list(range(100))
    assert [frame.time_s for frame in frames] == pytest.approx([n / 25 for n in range(100)], abs=1e-4)

    events = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
    for event in events:
        jsonschema.validate(event, event_schema())
    assert [(event["seq"], event["phase"], event["kind"], event["source"]) for event in events] == [
        (1, "new", "no_mask", "face"),
        (2, "end", "no_mask", "face"),
    ]
    assert report["events"] == len({event["id"] for event in events}) == 1
    program.assert_nothing_left()


def test_a_variable_rate_stays_as_it_is(program: Program) -> None:
    times_ms = [n * 40 + 15 * (n % 3) + 500 * (n > 20) for n in range(40)]
    write_numbered(program.cwd / "variable.mp4", 40, pts=times_ms)
    outcome = program.run("run", "--json", "--source", "variable.mp4", "--record", "out.mp4")
    assert outcome.code == 0, outcome.stderr
    frames = read_numbered(program.cwd / "out.mp4")
    assert [frame.number for frame in frames] == list(range(40))
    assert [frame.time_s for frame in frames] == pytest.approx([t / 1000 for t in times_ms], abs=2e-4)


def test_only_events_only_video_or_nothing_at_all(program: Program, face_video: Path) -> None:
    outcome = program.run("run", "--json", "--source", face_video, "--events", "events.jsonl")
    assert (outcome.code, outcome.report["frames"]["written"], outcome.report["events"]) == (0, 0, 1)
    assert len((program.cwd / "events.jsonl").read_text().splitlines()) == 2
    outcome = program.run("run", "--source", face_video)
    assert outcome.code == 0
    assert "100 decoded, 100 detected, 0 written" in outcome.stdout
    assert "INFO" not in outcome.stdout
    program.assert_nothing_left()


def test_a_folder_of_pictures_each_of_its_own_size(program: Program) -> None:
    """More of them than a ring remembers; the recording becomes a file for each size."""
    (program.cwd / "album").mkdir()
    for number in range(40):
        write_picture(
            program.cwd / "album" / f"{number}.png", quadrants(160 + 2 * (number % 7), 120 + 2 * (number % 5))
        )
    outcome = program.run("run", "--json", "--source", "album", "--record", "out.mp4")
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["frames"] == {"decoded": 40, "detected": 40, "written": 40, "skipped": {}}
    counts = []
    for recording in program.cwd.glob("out*.mp4"):
        with av.open(str(recording)) as container:
            counts.append(sum(1 for _ in container.decode(video=0)))
    assert sum(counts) == 40
    program.assert_nothing_left()


def test_two_runs_of_one_file_side_by_side(program: Program, plain_video: Path) -> None:
    first = program.start("run", "--json", "--source", plain_video, "--record", "first.mp4")
    with first.head("plain"):
        second = program.start("run", "--json", "--source", plain_video, "--record", "second.mp4")
        outcomes = [run.finish() for run in (first, second)]
    assert [outcome.code for outcome in outcomes] == [0, 0], [outcome.stderr for outcome in outcomes]
    for name in ("first.mp4", "second.mp4"):
        assert [frame.number for frame in read_numbered(program.cwd / name)] == list(range(100))
    program.assert_nothing_left()


def test_a_site_with_two_sources_keeps_them_apart(program: Program, plain_video: Path, face_video: Path) -> None:
    shutil.copy(plain_video, program.cwd / "yard.mp4")
    shutil.copy(face_video, program.cwd / "gate.mp4")
    (program.cwd / "site.yaml").write_text(
        """
name: entrance
sources:
  gate: {kind: file, path: "${CONFIG_DIR}/gate.mp4"}
  yard: {kind: file, path: "${CONFIG_DIR}/yard.mp4"}
detectors: {mask: {model: aizoo-260}}
rules: {no_mask: {kind: no_mask}}
sinks:
  recordings: {kind: recorder, directory: recordings}
  log: {kind: jsonl, path: events.jsonl}
pipelines: {all: {sources: [gate, yard], detector: mask, rules: [no_mask], sinks: [recordings, log]}}
"""
    )
    outcome = program.run("run", "site.yaml", "--json")
    assert outcome.code == 0, outcome.stderr
    assert {s: f["frames"]["written"] for s, f in outcome.report["sources"].items()} == {"gate": 100, "yard": 100}
    for source in ("gate", "yard"):
        [recording] = (program.cwd / "recordings").glob(f"{source}-*.mp4")
        assert [frame.number for frame in read_numbered(recording)] == list(range(100))
    events = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
    assert {event["source"] for event in events} == {"gate"}
    program.assert_nothing_left()


@pytest.mark.parametrize("name", SHORT)
def test_real_videos_come_out_whole(program: Program, name: str) -> None:
    check_real_video(program, shared("videos") / name)


def check_real_video(program: Program, video: Path, timeout_s: float = 90) -> None:
    """Every decoded frame is looked at and recorded, and the recording is as long as the video."""
    outcome = program.run(
        "run", "--json", "--source", video, "--record", "out.mp4", "--events", "e.jsonl", timeout_s=timeout_s
    )
    assert outcome.code == 0, outcome.stderr
    with av.open(str(video)) as original:
        times = [float(frame.time or 0) for frame in original.decode(video=0)]
    with av.open(str(program.cwd / "out.mp4")) as recorded:
        recorded_times = [float(frame.time or 0) for frame in recorded.decode(video=0)]
    count = len(times)
    assert outcome.report["frames"] == {"decoded": count, "detected": count, "written": count, "skipped": {}}
    assert len(recorded_times) == count
    assert recorded_times[-1] == pytest.approx(times[-1] - times[0], abs=0.05)
    program.assert_nothing_left()


def test_the_numbers_are_in_the_picture(plain_video: Path) -> None:
    with av.open(str(plain_video)) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (WIDTH, HEIGHT)
    assert [frame.number for frame in read_numbered(plain_video)] == list(range(100))


def test_modules_that_lie_around_are_not_run(program: Program, short_video: Path) -> None:
    """A folder with a module of a well-known name is no reason to run it."""
    for name in ("yaml.py", "pipeline/__init__.py"):
        decoy = program.cwd / name
        decoy.parent.mkdir(exist_ok=True)
        decoy.write_text("raise SystemExit('the decoy was run')")
    outcome = program.run("run", "--json", "--source", short_video)
    assert outcome.code == 0, outcome.stderr
    assert "decoy" not in outcome.stderr
