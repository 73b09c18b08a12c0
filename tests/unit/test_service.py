"""The systemd unit that ships fits the program that it starts."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import supervisor
from pipeline.errors import EXIT_CONFIG, EXIT_MACHINE
from pipeline.resources import data_dir

UNIT = data_dir("config") / "facemask@.service"


def option(name: str) -> str:
    [value] = re.findall(rf"^{name}=(.*)$", UNIT.read_text(), re.MULTILINE)
    return str(value)


def test_a_stop_has_the_time_that_it_takes() -> None:
    assert float(option("TimeoutStopSec")) > supervisor.DRAIN_S + 2 * supervisor.TERMINATE_S + supervisor.KILL_S
    assert option("KillMode") == "mixed"


def test_what_no_restart_mends_is_not_started_again() -> None:
    assert option("RestartPreventExitStatus").split() == [str(EXIT_CONFIG), str(EXIT_MACHINE)]


def test_systemd_understands_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    site = tmp_path / "facemask@hall.service"
    site.write_text(UNIT.read_text().replace("/opt/facemask/bin/run-pipeline", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", str(site)], capture_output=True, text=True, check=False)
    assert "facemask@hall" not in done.stderr, done.stderr
