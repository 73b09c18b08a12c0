"""Recordings and evidence while whoever makes them is killed again and again."""

from __future__ import annotations

import random
import sys
from itertools import islice
from pathlib import Path

import pytest

from tests.integration.test_evidence import SITE, events_of, evidence_of, recorded
from tests.numbered import pictures_of, read_numbered, write_numbered
from tests.runs import Program, kill, wait_until
from tests.shared_data import shared

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

UNTIRING = """
import sys
from pipeline import budget, cli
budget.RESTARTS_MAX, budget.RESTART_DELAY_MAX_S = 1000, 0.05
sys.exit(cli.main())
"""
"""The program itself, with a budget for more restarts than anybody should need."""
COUNT = 800
KILLS = 30


@pytest.mark.parametrize("overlay", ["burn", "track"])
def test_thirty_kills_lose_no_frame_and_no_evidence(program: Program, tmp_path: Path, overlay: str) -> None:
    pictures = islice(pictures_of(shared("videos/nomask_man_1280x720.mp4")), COUNT)
    video = write_numbered(tmp_path / "face.mp4", COUNT, pictures)
    text = SITE.format(video=video, realtime="false").replace("segment_s: 1", f"segment_s: 1, overlay: {overlay}")
    (program.cwd / "kept.yaml").write_text(text)
    run = program.start("run", "--json", "kept.yaml", command=(sys.executable, "-c", UNTIRING))
    rng = random.Random(7)
    hits = 0
    with run.results("face") as results:
        for number in range(KILLS):
            goal = results.published + rng.randrange(1, 2 * COUNT // KILLS)
            job = rng.choice(["annotator", "annotator", "capture", "inference", "events"])
            wait_until(lambda goal=goal: run.over or results.published >= goal, "more results")  # type: ignore[misc]
            pid = None if run.over else run.stage_pid(job)
            hits += pid is not None and kill(pid)
            assert hits or number < 5
            wait_until(lambda pid=pid, job=job: run.over or run.stage_pid(job) not in (pid, None), f"another {job}")  # type: ignore[misc]
    outcome = run.finish(300)
    assert outcome.code == 0, outcome.stderr
    assert hits >= KILLS * 0.5
    assert recorded(program.cwd / "recordings") == list(range(COUNT))
    found = evidence_of(events_of(program))
    assert sorted(found) == ["clip", "crop", "snapshot"]
    numbers = [frame.number for frame in read_numbered(found["clip"])]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[0] <= 10
    assert len(numbers) >= COUNT * 0.9
    program.assert_nothing_left()
