"""The run directory: one owner, nothing left behind, and the remains of the dead are cleared away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StartupError
from pipeline.transport import run_directory
from pipeline.transport.run_directory import RunDirectory, running


@pytest.fixture(autouse=True)
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        monkeypatch.setenv(run_directory.ENVIRONMENT, name)
        yield Path(name)


def test_it_is_private_and_gone_afterwards(base: Path) -> None:
    with RunDirectory("gate") as directory:
        assert directory.path.stat().st_mode & 0o777 == 0o700
        directory.describe({"pid": 1})
        assert [(site.name, site.description) for site in running()] == [("gate", {"pid": 1})]
    assert running() == []
    assert list(base.iterdir()) == []


def test_a_second_owner_is_refused(base: Path) -> None:
    with RunDirectory("gate"):
        with pytest.raises(StartupError, match="'gate' is running already"), RunDirectory("gate"):
            pass
        with RunDirectory("gate2"):
            assert {p.name for p in base.iterdir()} == {"gate", "gate.lock", "gate2", "gate2.lock"}


def test_a_lock_that_is_only_held_for_clearing_away_is_waited_for(base: Path) -> None:
    held = run_directory._take(base / "gate.lock")
    assert held is not None
    release = threading.Timer(0.15, os.close, [held])
    release.start()
    with RunDirectory("gate") as directory:
        assert directory.path.is_dir()
    release.join()


OWNER = """
import sys, time
from pipeline.transport.run_directory import RunDirectory
with RunDirectory("gate") as directory:
    (directory.path / "left").write_text("x")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("next_name", ["gate", "other"])
def test_what_a_killed_owner_leaves_is_cleared_at_the_next_start(base: Path, next_name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        with pytest.raises(StartupError), RunDirectory("gate"):
            pass
        os.kill(owner.pid, signal.SIGKILL)
    assert (base / "gate" / "left").exists()
    with RunDirectory(next_name) as directory:
        assert list(directory.path.iterdir()) == []
        assert {p.name for p in base.iterdir()} == {next_name, f"{next_name}.lock"}


def test_somebody_elses_directory_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loose = base / "loose"
    loose.mkdir(mode=0o755)
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(loose))
    with pytest.raises(StartupError, match="mode 0700"):
        run_directory.base_directory()
    link = base / "link"
    link.symlink_to(base)
    monkeypatch.setenv(run_directory.ENVIRONMENT, str(link))
    with pytest.raises(StartupError, match="mode 0700"):
        run_directory.base_directory()
