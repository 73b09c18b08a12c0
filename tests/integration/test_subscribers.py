"""Subscribers in other processes: the command, and the lines that the README shows."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import yaml

from tests.numbered import write_numbered
from tests.runs import PATIENCE_S, ROOT, Program, free_port, told_in, wait_until


def readme_lines(port: int) -> str:
    """The subscriber in the README, for other ports."""
    (code,) = re.findall(r"```python\n(import json\nimport zmq\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 20
    return str(code).replace("5556", str(port)).replace("5557", str(port + 1))


def test_both_kinds_of_subscriber_get_what_the_file_gets(program: Program, face_video: Path) -> None:
    """They are there before the site is: a subscriber outlives what it listens to."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    plain = subprocess.Popen(
        [sys.executable, "-u", "-c", readme_lines(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command = program.start("events", address, "--json", "--count", 2)
    try:
        outcome = program.run(
            "run", "--json", "--source", face_video, "--realtime", "--events", "events.jsonl", "--publish", address
        )
        assert outcome.code == 0, outcome.stderr
        written = [json.loads(line) for line in (program.cwd / "events.jsonl").read_text().splitlines()]
        assert [event["phase"] for event in written] == ["new", "end"]
        heard = command.finish()
        assert heard.code == 0
        assert [json.loads(line) for line in heard.stdout.splitlines()] == written
        assert plain.stdout is not None
        printed = [plain.stdout.readline().split() for _ in written]
        assert printed == [[e["t_start"], e["source"], e["phase"], e["id"]] for e in written]
    finally:
        plain.kill()
        plain.communicate(timeout=PATIENCE_S)


def test_the_only_running_site_is_found_without_an_address(program: Program, face_video: Path) -> None:
    site = program.start(
        "run",
        "--source",
        face_video,
        "--realtime",
        "--publish",
        f"tcp://127.0.0.1:{free_port()}",
        "--events",
        "e.jsonl",
    )
    site.await_stage("events")
    told = program.run("events", "--count", 1)
    assert told.code == 0, told.stderr
    assert " face no_mask new track 1 " in told.stdout
    wait_until(lambda: site.over, "the end of the site")
    assert site.finish().code == 0
    assert len(told_in(program.cwd / "e.jsonl")) == 2


def test_with_keys_the_command_hears_and_without_it_does_not(program: Program) -> None:
    """All that the README says of other machines, on this one."""
    for name in ("site", "laptop"):
        assert program.run("keys", "new", name).code == 0
    address = f"tcp://127.0.0.1:{free_port()}"
    write_numbered(program.cwd / "empty.mp4", 500)
    values = {
        "name": "guarded",
        "sources": {"gate": {"kind": "file", "path": "empty.mp4", "realtime": True}},
        "detectors": {"mask": {"model": "facemask"}},
        "rules": {"telling": {"kind": "tests.telling", "per_frame": 1, "total": 10_000}},
        "events": {"retention_days": 0},
        "sinks": {
            "alerts": {
                "kind": "zeromq",
                "bind": address,
                "secret_key_file": "site.key_secret",
                "client_keys": ["laptop.key"],
            }
        },
        "pipelines": {"all": {"sources": ["gate"], "detector": "mask", "rules": ["telling"], "sinks": ["alerts"]}},
    }
    (program.cwd / "site.yaml").write_text(yaml.safe_dump(values))
    keys = ("--key", "laptop.key_secret", "--server-key", "site.key")
    hearing = program.start("events", address, "--after", 0, "--count", 100, "--json", *keys)
    deaf = program.start("events", address, "--after", 0, "--count", 1)
    site = program.start("run", "site.yaml", PYTHONPATH=str(ROOT))
    heard = hearing.finish()
    assert [json.loads(line)["seq"] for line in heard.stdout.splitlines()] == list(range(1, 101))
    site.signal(signal.SIGINT)
    assert site.finish().code == 0
    assert not deaf.over
    deaf.signal(signal.SIGINT)
    assert deaf.finish().stdout == ""
