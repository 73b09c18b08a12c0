"""``events``: where it connects, and what it says when it cannot know."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.cli import main
from pipeline.commands.events import address
from pipeline.errors import ConfigError
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory

SINKS = {"log": {"kind": "jsonl", "path": "x"}, "alerts": {"kind": "zeromq", "bind": "tcp://127.0.0.1:6001"}}


@pytest.fixture(autouse=True)
def _base(run_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))


def test_an_address_is_taken_as_it_is() -> None:
    assert address("tcp://127.0.0.1:5556") == "tcp://127.0.0.1:5556"


def test_the_only_running_site_needs_no_name() -> None:
    with RunDirectory("gate") as gate:
        gate.describe({"raw": {"sinks": SINKS}})
        assert address(None) == address("gate") == "tcp://127.0.0.1:6001"


def test_of_several_one_must_be_named() -> None:
    with RunDirectory("gate") as gate, RunDirectory("yard") as yard:
        gate.describe({"raw": {"sinks": {}}})
        yard.describe({"raw": {"sinks": SINKS}})
        with pytest.raises(ConfigError, match="running now: gate, yard"):
            address(None)
        with pytest.raises(ConfigError, match="no site named 'hall' is running; running now: gate, yard"):
            address("hall")
        with pytest.raises(ConfigError, match="gate: publishes no events: it has no sink of kind zeromq"):
            address("gate")
        assert address("yard") == "tcp://127.0.0.1:6001"


def test_nothing_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events"]) == 2
    assert "running now: none" in capsys.readouterr().err


def test_the_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
