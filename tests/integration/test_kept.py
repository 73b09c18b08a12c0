"""A log outlives its run: what could not be sent goes with the next one, and can be read when nothing runs."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.numbered import write_numbered
from tests.runs import ROOT, Outcome, Program
from tests.servers import PASSWORD, USER, Broker, MqttListener

EVENTS = 40


def site(program: Program, port: int) -> Path:
    write_numbered(program.cwd / "empty.mp4", 20)
    mqtt = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "username": USER, "password": PASSWORD}
    rules = {"telling": {"kind": "tests.telling", "per_frame": 10, "total": EVENTS}}
    pipeline = {"sources": ["gate"], "detector": "mask", "rules": ["telling"], "sinks": ["broker", "file"]}
    values = {
        "name": "kept",
        "sources": {"gate": {"kind": "file", "path": "empty.mp4"}},
        "detectors": {"mask": {"model": "facemask"}},
        "rules": rules,
        "sinks": {"broker": mqtt, "file": {"kind": "jsonl", "path": "events.jsonl"}},
        "pipelines": {"all": pipeline},
    }
    path = program.cwd / "site.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run(program: Program, path: Path) -> Outcome:
    outcome = program.run("run", path, PYTHONPATH=str(ROOT))
    assert outcome.code == 0, outcome.stderr
    return outcome


def shown(program: Program, *arguments: object) -> list[int]:
    outcome = program.run("events", "kept", "--json", *arguments)
    assert outcome.code == 0, outcome.stderr
    return [json.loads(line)["seq"] for line in outcome.stdout.splitlines()]


def test_what_could_not_be_sent_goes_with_the_next_run(program: Program, tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    with Broker(tmp_path / "broker") as broker:
        listener = MqttListener(broker)
        path = site(program, broker.port)
        broker.stop()
        said = run(program, path).stderr
        assert f"sink broker: {EVENTS} events could not be delivered yet; the next run does it" in said
        assert shown(program, "--after", 0) == shown(program, "--since", "1h") == list(range(1, EVENTS + 1))
        broker.start()
        run(program, path)
        listener.wait_for(2 * EVENTS, "facemask/kept")
        listener.close()
    assert [event["seq"] for event in listener.events("facemask/kept")] == list(range(1, 2 * EVENTS + 1))
    lines = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
    assert lines == listener.events("facemask/kept")
    assert len({line["log_id"] for line in lines}) == 1
    assert shown(program, "--after", EVENTS) == list(range(EVENTS + 1, 2 * EVENTS + 1))
    program.assert_nothing_left()
