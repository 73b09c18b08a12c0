"""How fast events are: into the log, and from a camera to a subscriber's hands. By ``tests/run -m benchmark``."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.sinks.event_log import EventLog
from tests.runs import ROOT, Program, free_port
from tests.telling import heard_in
from tests.unit.sinks.events import event

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(300)]

EVENTS, BATCH = 20_000, 20
SECONDS = 30


@pytest.mark.parametrize("durability", ["normal", "full"])
def test_the_log_takes_five_thousand_a_second(tmp_path: Path, durability: str) -> None:
    """In transactions of ``BATCH``, as they come from a source that tells as many with a frame."""
    events = [event(n) for n in range(EVENTS)]
    with closing(EventLog(tmp_path / "events.sqlite", "run-1", sync_every_event=durability == "full")) as log:
        began_s = time.perf_counter()
        for first in range(0, EVENTS, BATCH):
            log.append(events[first : first + BATCH], outbox=("gate", first + BATCH, 0))
        rate = EVENTS / (time.perf_counter() - began_s)
    print(f"durability {durability}: {rate:.0f} events a second", file=sys.stderr)
    assert rate >= 5000 or durability == "full"


@pytest.mark.parametrize("company", ["alone", "among the hostile"])
def test_a_subscriber_has_an_event_at_once(program: Program, company: str) -> None:
    """720p at 25 frames a second, every frame looked at and told: capture to the hands of a Python program."""
    address, replay = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
    site = {
        "name": "telling",
        "sources": {"gate": {"kind": "lavfi", "graph": "testsrc2=size=1280x720:rate=25", "duration_s": SECONDS}},
        "detectors": {"mask": {"model": "facemask"}},
        "rules": {"telling": {"kind": "tests.telling", "per_frame": 1, "total": 25 * SECONDS}},
        "sinks": {"alerts": {"kind": "zeromq", "bind": address, "replay_bind": replay}},
        "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "rules": ["telling"], "sinks": ["alerts"]}},
    }
    (program.cwd / "site.yaml").write_text(yaml.safe_dump(site))
    heard = program.cwd / "heard"
    others = [["tests.telling", str(heard), address, replay]]
    others += [["tests.hostile_subscribers", address, replay]] if company != "alone" else []
    processes = [subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT) for arguments in others]
    try:
        outcome = program.run("run", "--json", "site.yaml", timeout_s=SECONDS + 60, PYTHONPATH=str(ROOT))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert outcome.code == 0, outcome.stderr
    assert outcome.report["restarts"] == {}
    late_ms = np.array([line.late_s for line in heard_in(heard)][25:]) * 1e3
    p50, p99 = np.percentile(late_ms, [50, 99])
    told = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(late_ms)}; to result: {outcome.report['latency_ms']}"
    print(f"capture to subscriber, {company}: {told}", file=sys.stderr)
    assert len(late_ms) == 25 * (SECONDS - 1)
    assert p50 <= 50
    assert p99 <= 150
