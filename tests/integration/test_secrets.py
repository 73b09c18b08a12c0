"""What is secret is shown nowhere: not by what goes wrong, not to other shells, and not in what is kept."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.sinks.curve import new_pair
from tests.runs import Program, Run, free_port, processes_with, wait_until
from tests.servers import USER, Broker, receiving

WORDS = {
    "MQTT_PASSWORD": "brokers-secret-4711",
    "HOOK": "path-secret-4712",
    "TOKEN": "header-secret-4713",
    "WEBHOOK_SECRET": "whsec_c2VjcmV0LTQ3MTQtc2VjcmV0LTQ3MTQtc2VjcmV0LTQ3MTQ=",
}


def site(port: int, hook_port: int, keys: Path) -> str:
    """Sinks that are refused, answered with errors, or find nobody, whatever they try."""
    hook = {"kind": "webhook", "url": f"http://127.0.0.1:{hook_port}/${{HOOK}}", "secret": "${WEBHOOK_SECRET}"}
    away = {"kind": "webhook", "url": f"http://127.0.0.1:{free_port()}/${{HOOK}}"}
    broker = {"kind": "mqtt", "host": "127.0.0.1", "port": port, "username": USER, "password": "${MQTT_PASSWORD}"}
    guarded: dict[str, Any] = {
        "kind": "zeromq",
        "bind": f"tcp://127.0.0.1:{free_port()}",
        "replay_bind": f"tcp://127.0.0.1:{free_port()}",
    }
    guarded |= {"secret_key_file": str(keys / "site.key_secret"), "client_keys": [str(keys / "laptop.key")]}
    sinks = {"hook": hook | {"headers": {"Authorization": "Bearer ${TOKEN}"}}, "away": away}
    sinks |= {"broker": broker, "guarded": guarded}
    return yaml.safe_dump(
        {
            "name": "secretive",
            "sources": {"gate": {"kind": "lavfi", "graph": "testsrc2=size=64x48:rate=5", "duration_s": 600}},
            "detectors": {"mask": {"model": "facemask"}},
            "rules": {"telling": {"kind": "tests.telling", "per_frame": 1, "total": 1000}},
            "sinks": sinks,
            "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "rules": ["telling"], "sinks": list(sinks)}},
        }
    )


def test_no_secret_is_shown_anywhere(program: Program, tmp_path: Path) -> None:
    new_pair(tmp_path / "keys", "site")
    new_pair(tmp_path / "keys", "laptop")
    pair = (tmp_path / "keys" / "site.key_secret").read_text()
    [key] = re.findall(r'secret-key = "(.*)"', pair)
    path = program.cwd / "site.yaml"
    (tmp_path / "broker").mkdir()
    with Broker(tmp_path / "broker") as broker, receiving() as receiver:
        receiver.answers = [500] * 1000
        path.write_text(site(broker.port, receiver.port, tmp_path / "keys"))
        run = program.start("-v", "run", path, PYTHONPATH=str(Path(__file__).resolve().parents[2]), **WORDS)
        wait_until(lambda: len(receiver.requests) >= 2 or run.over, "two requests")
        wait_until(lambda: "disconnected" in broker.said or run.over, "a refused login")
        shown = "".join(command_lines(program) + files_of(run))
        run.signal(2)
        outcome = run.finish()
    assert [request.path for request in receiver.requests[:1]] == [f"/{WORDS['HOOK']}"]
    kept = "".join(p.read_text(errors="replace") for p in (program.cwd / "state").rglob("*") if p.is_file())
    everything = shown + kept + outcome.stdout + outcome.stderr + broker.said
    assert "answers 500" in outcome.stderr
    assert "nobody is there" in outcome.stderr
    assert "refuses: Not authorized" in outcome.stderr
    for secret in (*WORDS.values(), key):
        assert secret not in everything, secret


def command_lines(program: Program) -> list[str]:
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in processes_with(program.run_base)]


def files_of(run: Run) -> list[str]:
    directory = run.directory()
    assert directory is not None
    return [path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("sink", "told"),
    [
        (
            'alerts: {kind: zeromq, bind: "tcp://0.0.0.0:5556"}',
            "sinks.alerts: 'tcp://0.0.0.0:5556' can be reached from other machines, which needs keys",
        ),
        (
            "alerts: {kind: zeromq, secret_key_file: none, client_keys: ['" + "0" * 40 + "']}",
            "sinks.alerts.secret_key_file: none is not",
        ),
        ('alerts: {kind: webhook, url: "ftp://${TOKEN}"}', "sinks.alerts.url: is not an address like https://"),
        ("alerts: {kind: mqtt}", "sinks.alerts.host: is missing"),
        ("alerts: {kind: command, command: rm -rf}", "sinks.alerts.command: "),
    ],
)
def test_a_sink_that_is_not_right_is_refused_in_one_line(bare_program: Program, sink: str, told: str) -> None:
    path = bare_program.cwd / "site.yaml"
    path.write_text(
        "name: gate\nsources: {gate: {kind: file, path: a.mp4}}\ndetectors: {mask: {model: facemask}}\n"
        f"sinks: {{{sink}}}\npipelines: {{all: {{sources: [gate], detector: mask, sinks: [alerts]}}}}\n"
    )
    began_s = time.monotonic()
    outcome = bare_program.start("run", path, **WORDS).finish()
    assert outcome.code == 2
    [line] = outcome.errors
    assert told in line
    assert WORDS["TOKEN"] not in outcome.stderr
    assert time.monotonic() - began_s < 60
