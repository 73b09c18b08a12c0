"""Logins in arguments are not to be read in the process list."""

from __future__ import annotations

import subprocess
import sys

import pytest

SHOW = """
import sys
from pathlib import Path
from pipeline.commands.conceal import conceal
conceal(sys.argv[1:])
print(Path("/proc/self/cmdline").read_bytes().split(b"\\0")[3:])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")
def test_a_login_is_covered_and_everything_else_stays() -> None:
    arguments = [
        "run",
        "--source",
        "rtsp://us er:p@ss:/wörd@cam/one?a=b",
        "--record",
        "a@b.mp4",
        "http://cam/x?password=qwert&channel=1",
    ]
    shown = subprocess.run([sys.executable, "-c", SHOW, *arguments], capture_output=True, check=True).stdout.decode()
    assert "rtsp://****" in shown
    assert "@cam/one?a=b" in shown
    assert "us er" not in shown
    assert "ss:/w" not in shown
    assert "'a@b.mp4', b'http://cam/x?password=*****&channel=1'" in shown


def test_arguments_without_a_login_are_left_alone() -> None:
    arguments = ["run", "--source", "rtsp://cam/one"]
    shown = subprocess.run([sys.executable, "-c", SHOW, *arguments], capture_output=True, check=True).stdout.decode()
    assert "[b'run', b'--source', b'rtsp://cam/one', b'']" in shown
