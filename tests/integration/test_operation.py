"""A running site seen from another shell."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.status import Monitor
from tests.runs import COMMAND, Program, Run, kill, wait_until

SITE = """
name: hall
sources:
  gate: {kind: lavfi, graph: "testsrc2=size=320x180:rate=25"}
  yard: {kind: lavfi, graph: "testsrc2=size=640x360:rate=10"}
detectors: {mask: {model: facemask}}
rules: {no_mask: {kind: no_mask}}
pipelines: {all: {sources: [gate, yard], detector: mask, rules: [no_mask], detect: {max_fps: 5}}}
operation: {metrics_port: 0}
"""


def status_of(program: Program, *arguments: str) -> dict[str, Any]:
    outcome = program.run("status", "--json", *arguments)
    assert outcome.code == 0, outcome.stderr
    return outcome.report


def running_site(program: Program) -> Run:
    (program.cwd / "hall.yaml").write_text(SITE)
    run = program.start("run", "hall.yaml", "--json")
    with run.results("gate") as gate, run.results("yard") as yard:
        wait_until(lambda: gate.detected >= 3 and yard.detected >= 3, "the first looks")
    return run


def test_a_running_site_is_told_from_another_shell(bare_program: Program) -> None:
    run = running_site(bare_program)
    report = status_of(bare_program, "hall")
    assert (report["name"], report["pid"], report["ready"], report["failed"]) == ("hall", run.pid, True, [])
    gate, yard = report["sources"]["gate"], report["sources"]["yard"]
    assert (gate["state"], yard["state"]) == ("live", "live")
    assert 1 < gate["detected_fps"] < 8
    assert gate["fps"] > yard["fps"]
    assert gate["skipped"]["rate"] > gate["detected"]
    assert {"inference/all", "capture/gate", "capture/yard"} <= set(report["stages"])
    assert all(stage["memory_mb"] > 5 and stage["cpu"] < 2 for stage in report["stages"].values())
    shown = bare_program.run("status", "--once").stdout
    assert re.search(r"gate +live", shown)
    assert re.search(r"inference/all +running", shown)

    described = json.loads((bare_program.run_base / "hall" / "site.json").read_text())
    with urllib.request.urlopen(described["metrics"] + "/metrics", timeout=30) as response:
        assert b'facemask_source_state{source="gate",state="live"} 1.0' in response.read()

    pid = run.await_stage("inference")
    kill(pid)

    def again() -> bool:
        stage = status_of(bare_program)["stages"]["inference/all"]
        return bool(stage["restarts"] == 1 and stage["state"] == "running" and stage["reason"] == "killed by SIGKILL")

    wait_until(again, "the inference that was started again")
    run.signal(signal.SIGINT)
    assert run.finish().code == 0
    bare_program.assert_nothing_left()


def test_a_source_whose_capture_was_killed_is_not_told_as_live(bare_program: Program) -> None:
    """Nobody has said otherwise in its name: the capture had no time for that."""
    run = running_site(bare_program)
    directory = run.directory()
    assert directory is not None
    with closing(Monitor(directory)) as monitor:

        def is_gone() -> bool:
            report = monitor.read()
            pid = report.stages["capture/gate"].pid
            if report.sources["gate"].state == "backing_off":
                return True
            if pid is not None:
                kill(pid)
            return False

        wait_until(is_gone, "a capture that waits for its start")
        gate, yard = (monitor.read().sources[source] for source in ("gate", "yard"))
        assert gate.state != "live"
        assert (gate.reason, yard.state, yard.reason) == ("killed by SIGKILL", "live", "")
        wait_until(lambda: monitor.read().sources["gate"].state == "live", "the capture that was started again")
    run.signal(signal.SIGINT)
    assert run.finish().code == 0
    bare_program.assert_nothing_left()


def test_a_table_that_is_watched_ends_with_the_site(bare_program: Program) -> None:
    run = running_site(bare_program)
    watching = bare_program.start("status", "hall")
    maps = Path(f"/proc/{watching.pid}/maps")
    wait_until(lambda: "gate.head" in maps.read_text(), "the look at the run directory")
    run.signal(signal.SIGINT)
    assert run.finish().code == 0
    outcome = watching.finish()
    assert outcome.code == 0
    assert "hall has ended" in outcome.stderr


def test_a_pipe_gets_every_table_when_it_is_made(bare_program: Program) -> None:
    run = running_site(bare_program)
    command = ("bash", "-c", '"$@" | head -1', "bash", *COMMAND)
    assert bare_program.start("status", "hall", command=command).finish().stdout.startswith("hall (pid ")
    run.signal(signal.SIGINT)
    assert run.finish().code == 0


def test_a_site_that_does_not_run_is_refused_with_those_that_do(bare_program: Program) -> None:
    outcome = bare_program.run("status", "hall")
    assert (outcome.code, outcome.stderr) == (2, "error: no site named 'hall' is running; running now: none\n")
