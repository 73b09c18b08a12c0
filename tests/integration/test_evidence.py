"""Recordings in segments and evidence of events, by whole runs: made, killed, gone on with, salvaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.sinks.archive import Archive, Kept
from tests.conftest import COUNT
from tests.numbered import read_numbered
from tests.runs import Program, Run, kill, processes_with, wait_until

SITE = """
name: kept
version: 1
sources: {{face: {{kind: file, path: "{video}", realtime: {realtime}}}}}
detectors: {{mask: {{model: aizoo-260, backend: {{kind: onnxruntime}}}}}}
rules: {{no_mask: {{kind: no_mask, confirm_s: 0.5, cooldown_s: 30}}}}
sinks:
  evidence: {{kind: clips, directory: evidence, pre_s: 1, post_s: 1}}
  recordings: {{kind: recorder, directory: recordings, segment_s: 1}}
  log: {{kind: jsonl, path: events.jsonl}}
pipelines:
  entrance: {{sources: [face], detector: mask, rules: [no_mask], sinks: [evidence, recordings, log]}}
"""


def start(program: Program, video: Path, *, realtime: bool = False) -> Run:
    text = SITE.format(video=video, realtime=str(realtime).lower())
    (program.cwd / "kept.yaml").write_text(text)
    return program.start("run", "--json", "kept.yaml")


def listed(directory: Path) -> list[Kept]:
    with contextlib.closing(Archive(directory, read_only=True)) as archive:
        return list(archive.files())


def recorded(directory: Path) -> list[int]:
    """The numbers of the frames in all segments, in the order of the index."""
    paths = [directory / kept.path for kept in listed(directory)]
    return [frame.number for path in paths for frame in read_numbered(path)]


def events_of(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]


def evidence_of(events: list[dict[str, Any]]) -> dict[str, Path]:
    """By kind; every file is there, of the size and with the sum that was told."""
    found: dict[str, Path] = {}
    for event in events:
        for file in event["evidence"]:
            path = Path(file["path"])
            data = path.read_bytes()
            assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
            found[file["kind"]] = path
    return found


def test_an_episode_has_its_evidence_and_every_frame_is_in_a_segment(program: Program, face_video: Path) -> None:
    outcome = start(program, face_video).finish()
    assert outcome.code == 0, outcome.stderr
    events = events_of(program)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert len({event["id"] for event in events}) == outcome.report["events"] == 1
    assert sorted(event["phase"] for event in events) == ["end", "new", "update", "update", "update"]
    found = evidence_of(events)
    assert sorted(found) == ["clip", "crop", "snapshot"]
    assert [frame.number for frame in read_numbered(found["clip"])] == list(range(COUNT))
    assert recorded(program.cwd / "recordings") == list(range(COUNT))
    assert len(listed(program.cwd / "recordings")) in (4, 5, 6)
    program.assert_nothing_left()


def test_killed_in_the_middle_of_a_clip_the_clip_is_completed(program: Program, face_video: Path) -> None:
    run = start(program, face_video)
    clips = program.cwd / "evidence"
    killed = 0
    for _ in range(2):
        pid = run.await_stage("annotator")
        size = sum(path.stat().st_size for path in clips.glob("*/*.part.mp4"))
        wait_until(
            lambda size=size: run.over or sum(p.stat().st_size for p in clips.glob("*/*.part.mp4")) > size + 20_000,  # type: ignore[misc]
            "a clip that grows",
        )
        killed += kill(pid)
        wait_until(lambda pid=pid: run.over or run.stage_pid("annotator") not in (pid, None), "another annotator")  # type: ignore[misc]
    outcome = run.finish()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"]["annotator/face"] == killed == 2
    found = evidence_of(events_of(program))
    assert sorted(found) == ["clip", "crop", "snapshot"]
    assert [frame.number for frame in read_numbered(found["clip"])] == list(range(COUNT))
    assert recorded(program.cwd / "recordings") == list(range(COUNT))
    program.assert_nothing_left()


def test_a_run_that_is_killed_as_a_whole_leaves_what_the_next_one_completes(program: Program, face_video: Path) -> None:
    run = start(program, face_video, realtime=True)
    clips = program.cwd / "evidence"
    wait_until(lambda: any(p.stat().st_size > 100_000 for p in clips.glob("*/*.part.mp4")), "a clip that grows")
    pids = [run.pid, *processes_with(program.run_base)]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.finish()
    [part] = clips.glob("*/*.part.mp4")
    before = [frame.number for frame in read_numbered(part)]
    assert len(list((program.cwd / "recordings").glob("*/*.part.mp4"))) == 1

    shutil.rmtree(program.cwd / "events.jsonl", ignore_errors=True)
    outcome = start(program, face_video).finish()
    assert outcome.code == 0, outcome.stderr
    salvaged = part.with_name(part.name.replace(".part", ""))
    assert [frame.number for frame in read_numbered(salvaged)] == before
    assert len(before) > 10
    told = [event for event in events_of(program) if event["id"] == part.name.split("-")[0]]
    assert [file["path"] for file in told[-1]["evidence"]] == [str(salvaged)]
    numbers = recorded(program.cwd / "recordings")
    assert numbers[-COUNT:] == list(range(COUNT))
    first = numbers[:-COUNT]
    assert first == list(range(first[0], first[0] + len(first)))
    with contextlib.closing(Archive(program.cwd / "recordings", read_only=True)) as archive:
        assert "not_running" in [gap.reason for gap in archive.gaps()]
    program.assert_nothing_left()


@pytest.fixture
def small_disk(program: Program) -> Iterator[Path]:
    disk = program.cwd / "recordings"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("when_full", ["drop_oldest", "stop"])
def test_a_full_disk_is_one_event_and_no_concern_of_the_evidence(
    program: Program, face_video: Path, small_disk: Path, when_full: str
) -> None:
    text = SITE.format(video=face_video, realtime="false")
    text = text.replace("segment_s: 1", f"segment_s: 1, when_full: {when_full}")
    (program.cwd / "kept.yaml").write_text(text)
    outcome = program.run("run", "--json", "kept.yaml")
    events = events_of(program)
    told = [(event["kind"], event["reason"]) for event in events if event["kind"] != "no_mask"]
    if when_full == "stop":
        assert outcome.code == 1
        assert any("No space left on device" in line for line in outcome.errors)
        assert told == [("recording_stopped", "the disk is full")]
    else:
        assert outcome.code == 0, outcome.stderr
        assert told == [("storage_full", "the oldest recordings are removed")]
        numbers = recorded(small_disk)
        assert numbers == list(range(numbers[0], COUNT))
        assert numbers[0] > 0
    found = evidence_of(events)
    assert [frame.number for frame in read_numbered(found["clip"])] == list(range(COUNT))
