"""``run --view`` on a real terminal (a pseudo-terminal): pictures that move, and an end that leaves it as it was."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from tests.conftest import MODEL
from tests.runs import COMMAND, PATIENCE_S, Program

_COLOUR = re.compile(rb"\x1b\[[0-9;]*38;2;[0-9;]+m")


def test_pictures_and_status_are_drawn(program: Program, face_video: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    graph = f"lavfi:movie={face_video}:loop=0,setpts=N/(25*TB),realtime"
    environment = {**program._environment(), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    command = [*COMMAND, "run", "--view", "--source", graph, "--model", MODEL]
    process = subprocess.Popen(
        command, cwd=program.cwd, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, process_group=0
    )
    os.close(theirs)
    drawn = b""
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while drawn.count("▀".encode()) < 20_000 or b"inference/quick" not in drawn:
            assert time.monotonic() < deadline_s, drawn[-2000:]
            if select.select([ours], [], [], 1)[0]:
                drawn += os.read(ours, 65536)
        assert len(set(_COLOUR.findall(drawn))) > 50
        os.killpg(process.pid, signal.SIGINT)
        while process.poll() is None:
            assert time.monotonic() < deadline_s
            if select.select([ours], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # the other end has been closed
                    drawn += os.read(ours, 65536)
        assert process.returncode == 0
        assert b"Traceback" not in drawn
        assert drawn.rindex(b"\x1b[?25h") > drawn.rindex(b"\x1b[?25l")  # the cursor is there again
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
    program.assert_nothing_left()


@pytest.mark.parametrize("option", [["--view"]])
def test_without_a_terminal_it_is_one_line(program: Program, plain_video: Path, option: list[str]) -> None:
    outcome = program.run("run", *option, "--source", plain_video)
    assert outcome.code == 2
    assert outcome.errors == [
        "error: --view draws on a terminal, and standard error is none; "
        "run_pipeline.py status --once prints the figures once"
    ]
