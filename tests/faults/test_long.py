"""Long fault runs: many kills one after the other, and every real video there is."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from tests.integration.test_end_to_end import check_real_video
from tests.numbered import pictures_of, read_numbered, write_numbered
from tests.runs import Program, Run, kill, processes_with, told_in, wait_until
from tests.shared_data import ROOT, shared

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

KILLS, COUNT = 50, 1200
JOBS = ("capture", "inference", "annotator", "events")
VIDEOS = sorted(
    path.name for path in (Path(os.environ.get("FACEMASK_SHARED", ROOT.parent / "shared")) / "videos").glob("*")
)

UNTIRING = """
import sys
from pipeline import budget, cli
budget.RESTARTS_MAX, budget.RESTART_DELAY_MAX_S = 1000, 0.05
sys.exit(cli.main())
"""
"""The program itself, with a budget for more restarts than anybody should need."""


def test_fifty_kills(program: Program, tmp_path: Path) -> None:
    """Whoever is hit, whenever: every frame once, the same events, and nothing grows."""
    pictures = islice(pictures_of(shared("videos/mask_four_people_donning_960x506.mp4")), COUNT)
    video = write_numbered(tmp_path / "long.mp4", COUNT, pictures)
    undisturbed = program.run("run", "--source", video, "--events", "expected.jsonl", timeout_s=600)
    assert undisturbed.code == 0, undisturbed.stderr

    arguments = ("run", "--json", "--source", video, "--record", "out.mp4", "--events", "events.jsonl")
    run = program.start(*arguments, command=(sys.executable, "-c", UNTIRING))
    chance = random.Random(2026)
    hits, descriptors, files = 0, [], []
    with run.head("long") as head, run.results("long") as results:
        for number in range(KILLS):
            progress = results.published
            wait_until(lambda: run.over or results.published > progress or results.finished, "progress", 120)  # noqa: B023
            time.sleep(chance.uniform(0, 0.4))
            job = chance.choice(JOBS)
            pid = run.stage_pid(job)
            if run.over or head.position("annotator") >= COUNT:
                break
            hits += pid is not None and kill(pid)
            descriptors.append(descriptors_of(run))
            files.append(len(list(program.run_base.rglob("*"))))
            assert len(processes_with(program.run_base)) <= 1 + len(JOBS), number
    outcome = run.finish(900)
    assert outcome.code == 0, outcome.stderr
    assert hits >= KILLS * 0.8
    assert sum(outcome.report["restarts"].values()) == hits
    assert outcome.report["frames"]["skipped"] == {}
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(COUNT))
    assert told_in(program.cwd / "events.jsonl") == told_in(program.cwd / "expected.jsonl")
    assert max(descriptors[len(descriptors) // 2 :]) <= max(descriptors[: len(descriptors) // 2]) + 2
    assert max(files[len(files) // 2 :]) <= max(files[: len(files) // 2]) + 2
    program.assert_nothing_left()


def descriptors_of(run: Run) -> int:
    """How many files the supervisor holds open."""
    return len(list(Path(f"/proc/{run.pid}/fd").iterdir()))


def test_four_thousand_frames_leave_memory_flat(program: Program, tmp_path: Path) -> None:
    """The sum over all processes of what each has for itself, and its share of what they share (PSS)."""
    count = 4000
    video = write_numbered(tmp_path / "long.mp4", count)
    run = program.start("run", "--json", "--source", video, "--record", "out.mp4", "--events", "events.jsonl")
    early = late = 0.0
    with run.results("long") as results:
        wait_until(lambda: results.published > 500, "the five hundredth result", 300)
        early = memory_mb(program.run_base)
        wait_until(lambda: results.published > count - 300, "nearly the end", 600)
        late = memory_mb(program.run_base)
    outcome = run.finish(300)
    assert outcome.code == 0, outcome.stderr
    assert late < early * 1.05 + 10, (early, late)
    assert late < 500
    assert [frame.number for frame in read_numbered(program.cwd / "out.mp4")] == list(range(count))


def memory_mb(run_base: Path) -> float:
    kilobytes = 0
    for pid in processes_with(run_base):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes / 1024


@pytest.mark.parametrize("name", VIDEOS)
def test_every_real_video_comes_out_whole(program: Program, name: str) -> None:
    check_real_video(program, shared("videos") / name, timeout_s=600)
    for line in (program.cwd / "e.jsonl").read_text().splitlines() if (program.cwd / "e.jsonl").exists() else ():
        json.loads(line)
