"""Whoever starts it may have closed its output, filled it up, or changed his mind while it was being loaded."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import COMMAND, ROOT, Program, wait_until

SHELL = ("bash", "-c", '"$@" {redirection}', "bash", *COMMAND)


def redirected(program: Program, redirection: str, *arguments: object) -> tuple[int, str, str]:
    command = [part.format(redirection=redirection) for part in SHELL]
    outcome = program.start(*arguments, command=command).finish()
    return outcome.code, outcome.stdout, outcome.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "<&- >&- 2>&-", ">&-"])
def test_closed_descriptors_are_not_given_to_files(program: Program, short_video: Path, redirection: str) -> None:
    code, _, said = redirected(program, redirection, "run", "--source", short_video, "--events", "e.jsonl")
    assert code == 0, said
    assert all(line.startswith("{") for line in (program.cwd / "e.jsonl").read_text().splitlines())
    program.assert_nothing_left()


@pytest.mark.parametrize("arguments", [("models", "list"), ("doctor",), ("events", "--schema")])
def test_an_output_that_is_full_is_said(program: Program, arguments: tuple[str, ...]) -> None:
    assert redirected(program, ">/dev/full", *arguments) == (
        1,
        "",
        "error: nothing can be written any more: No space left on device\n",
    )


def test_a_reader_that_goes_ends_it_without_a_word(program: Program) -> None:
    assert redirected(program, "| true; exit ${PIPESTATUS[0]}", "events", "--schema") == (1, "", "")


@pytest.mark.parametrize("command", [COMMAND, (sys.executable, "-m", "pipeline")])
def test_ctrl_c_while_it_is_loaded_ends_it_without_a_word(command: tuple[str, ...]) -> None:
    """Modules of others are being read, and ours hardly."""
    process = subprocess.Popen(
        [*command, "doctor"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    maps = Path(f"/proc/{process.pid}/maps")
    wait_until(lambda: "_pydantic_core" in maps.read_text() or process.poll() is not None, "pydantic being loaded")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert said == ("", "")
    assert process.returncode in (-signal.SIGINT, 130)
