"""``events``: where it looks, what it prints of a log, and what it says when it cannot know."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from pipeline import config, plan
from pipeline.cli import main, parser
from pipeline.commands.events import event_log
from pipeline.commands.run import quick_site
from pipeline.errors import ConfigError
from pipeline.sinks.event_log import EventLog
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory
from tests.runs import wait_until
from tests.unit.sinks.events import event

ADDRESS = "tcp://127.0.0.1:6001"
SITE = """\
name: gate
sources: {gate: {kind: file, path: "a-${CAM_PW}.mp4"}}
detectors: {mask: {}}
sinks: {alerts: {kind: zeromq, bind: "${ALERTS}"}}
pipelines: {all: {sources: [gate], detector: mask, sinks: [alerts]}}
"""


@pytest.fixture(autouse=True)
def _base(run_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(run_base))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ALERTS", ADDRESS)
    monkeypatch.setenv("CAM_PW", "hunter2")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[EventLog]:
    """The log of the site ``gate``, which does not run: one hour after the other."""
    with contextlib.closing(
        EventLog(tmp_path / "state" / "facemask-pipeline" / "gate" / "events.sqlite", "run-1")
    ) as log:
        log.append([event(1), event(2, source="yard"), event(1, "end")])
        yield log


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[int]:
    assert main(["events", *arguments, "--json"]) == 0
    return [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()]


def test_the_log_of_a_site_that_does_not_run(kept: EventLog, site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("gate", str(site)):
        assert printed(capsys, name, "--after", "0") == printed(capsys, name, "--since", "1h") == [1, 2, 3]
    assert printed(capsys, "gate", "--after", "2") == [3]
    assert printed(capsys, "gate", "--since", "2026-01-01T00:00:00Z", "--source", "gate", "--kind", "no_mask") == [1, 3]
    assert printed(capsys, "gate", "--since", "2099-01-01") == []
    for long_ago in ("99999999d", "9" * 400 + "d", "0001-01-01"):
        assert printed(capsys, "gate", "--since", long_ago) == [1, 2, 3]
    assert printed(capsys, "gate", "--since", "9999-12-31") == printed(capsys, "gate", "--after", str(2**63 - 1)) == []
    assert printed(capsys, "gate", "--after", "0", "--follow", "--count", "2") == [1, 2]
    assert main(["events", "gate", "--after", "2"]) == 0
    ended = event(1, "end")
    assert capsys.readouterr().out == f"{ended.t_end} gate no_mask end (gone) track 1 {ended.id}\n"


def test_a_log_that_ends_with_its_run_ends_what_follows_it(run_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunDirectory("quick") as quick, contextlib.closing(EventLog(quick.path / "events.sqlite", "run-1")) as log:
        quick.describe({"event_log": str(log.path)})
        log.append([event(1)])
        follower = threading.Thread(target=main, args=(["events", "quick", "--after", "0", "--follow", "--json"],))
        follower.start()
        wait_until(lambda: len(log_readers(log.path)) > 1, "the follower")
    follower.join(30)
    assert not follower.is_alive()
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1]


def test_a_log_that_cannot_be_read_any_more_ends_it_with_one_line(
    kept: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    follower = threading.Thread(target=lambda: codes.append(main(["events", "gate", "--after", "0", "--follow"])))
    follower.start()
    wait_until(lambda: len(log_readers(kept.path)) > 1, "the follower")
    with contextlib.closing(sqlite3.connect(kept.path)) as database:
        database.execute("DROP TABLE events")
    follower.join(30)
    assert codes == [1]
    assert capsys.readouterr().err == f"error: event log {kept.path}: no such table: events\n"


def log_readers(path: Path) -> list[str]:
    """Who has the log open, the writer included."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if entry.samefile(path):
                found.append(entry.name)
    return found


def test_what_it_is_to_show_of_a_site_that_does_not_run_must_be_said(
    kept: EventLog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", "gate"]) == 2
    assert "nothing runs there; to see what its log has: --since 2h, or --after 0" in capsys.readouterr().err
    assert main(["events", "door", "--after", "0"]) == 2
    assert "no log of it is kept; running now: none; kept: gate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["gate", "--key", "a"], "go with an address"),
        ([ADDRESS, "--key", "a"], "--key and --server-key go together"),
        ([ADDRESS, "--since", "2h"], "--since needs the site's log"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["events", *arguments]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--since", "2 fortnights"],
        ["--after", "-1"],
        ["--after", str(2**63)],
        ["--after", "9" * 5000],
        ["--since", "1h", "--after", "0"],
    ],
)
def test_what_is_no_time_or_number_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["events", *arguments])


def test_the_only_running_site_needs_no_name(tmp_path: Path) -> None:
    with RunDirectory("gate") as gate:
        gate.describe({"event_log": str(tmp_path / "log")})
        assert event_log(None) == event_log("gate") == (tmp_path / "log", True)


def test_a_running_site_tells_where_its_log_lies(site: Path, tmp_path: Path, run_base: Path) -> None:
    loaded = config.load(site)
    assert loaded.publishes == [ADDRESS]
    kept = plan.shown_event_log(loaded, run_base)
    assert kept == str(tmp_path / "state" / "facemask-pipeline" / "gate" / "events.sqlite")
    elsewhere = config.check({**loaded.values, "events": {"directory": str(tmp_path / "logs")}}, "here")
    assert plan.shown_event_log(elsewhere, run_base) == str(tmp_path / "logs" / "gate" / "events.sqlite")


def test_a_quick_run_leaves_no_log_behind(run_base: Path) -> None:
    for arguments, expected in ((["--publish", ADDRESS], str(run_base / "events.sqlite")), ([], None)):
        options = parser().parse_args(["run", "--source", "a.mp4", *arguments])
        assert plan.shown_event_log(quick_site(options), run_base) == expected


def test_of_several_one_must_be_named(tmp_path: Path) -> None:
    with RunDirectory("gate") as gate, RunDirectory("yard") as yard:
        gate.describe({"event_log": None})
        yard.describe({"event_log": str(tmp_path / "log")})
        with pytest.raises(ConfigError, match="running now: gate, yard"):
            event_log(None)
        with pytest.raises(ConfigError, match=r"no site named 'hall' is running.*; running now: gate, yard"):
            event_log("hall")
        with pytest.raises(ConfigError, match="gate: keeps no events: it has no sink for them, and no log"):
            event_log("gate")
        assert event_log("yard") == (tmp_path / "log", True)


def test_nothing_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events"]) == 2
    assert "running now: none" in capsys.readouterr().err


def test_the_schema_is_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--schema"]) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def test_keys_are_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keys", "new", "laptop", "--directory", str(tmp_path)]) == 0
    public, secret = (Path(line.split()[0]) for line in capsys.readouterr().out.splitlines())
    assert (public.name, secret.name) == ("laptop.key", "laptop.key_secret")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert main(["keys", "new", "laptop", "--directory", str(tmp_path)]) == 2
    assert "laptop.key exists" in capsys.readouterr().err
