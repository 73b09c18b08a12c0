"""``events``: where it connects, and what it says when it cannot know."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline import config
from pipeline.cli import main, parser
from pipeline.commands.events import address
from pipeline.commands.run import quick_site
from pipeline.errors import ConfigError
from pipeline.supervisor import Supervisor
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory

ADDRESS = "tcp://127.0.0.1:6001"
SITE = """\
name: gate
sources: {gate: {kind: file, path: "a-${CAM_PW}.mp4"}}
detectors: {mask: {}}
sinks: {alerts: {kind: zeromq, bind: "${ALERTS}"}}
pipelines: {all: {sources: [gate], detector: mask, sinks: [alerts]}}
"""


@pytest.fixture(autouse=True)
def _base(run_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))


def test_an_address_is_taken_as_it_is() -> None:
    assert address("tcp://127.0.0.1:5556") == "tcp://127.0.0.1:5556"


def test_the_only_running_site_needs_no_name() -> None:
    with RunDirectory("gate") as gate:
        gate.describe({"publishes": [ADDRESS]})
        assert address(None) == address("gate") == ADDRESS


def test_a_running_site_tells_the_addresses_with_their_variables_expanded_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALERTS", ADDRESS)
    monkeypatch.setenv("CAM_PW", "hunter2")
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    assert address(str(path)) == ADDRESS
    with RunDirectory("gate") as gate:
        gate.describe(Supervisor(config.load(path))._description())
        assert address("gate") == ADDRESS
        assert "hunter2" not in "".join(p.read_text() for p in gate.path.iterdir())


def test_a_source_given_as_an_argument_is_told_to_nobody() -> None:
    options = parser().parse_args(["run", "--source", "lavfi:movie=http\\://me\\:hunter2@host/a", "--publish", ADDRESS])
    description = Supervisor(quick_site(options))._description()
    assert description["publishes"] == [ADDRESS]
    assert "hunter2" not in str(description)


def test_a_sink_that_no_pipeline_uses_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALERTS", ADDRESS)
    monkeypatch.setenv("CAM_PW", "hunter2")
    path = tmp_path / "site.yaml"
    path.write_text(SITE.replace("sinks: [alerts]", "sinks: []"))
    with pytest.raises(ConfigError, match="publishes no events"):
        address(str(path))


def test_of_several_one_must_be_named() -> None:
    with RunDirectory("gate") as gate, RunDirectory("yard") as yard:
        gate.describe({"publishes": []})
        yard.describe({"publishes": [ADDRESS]})
        with pytest.raises(ConfigError, match="running now: gate, yard"):
            address(None)
        with pytest.raises(ConfigError, match="no site named 'hall' is running; running now: gate, yard"):
            address("hall")
        with pytest.raises(
            ConfigError, match="gate: publishes no events: none of its pipelines has a sink of kind zeromq"
        ):
            address("gate")
        assert address("yard") == ADDRESS


def test_nothing_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events"]) == 2
    assert "running now: none" in capsys.readouterr().err


def test_the_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
