"""A program for every event: what it gets, and what becomes of one that fails, hangs or is not there."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.errors import Disconnected, StartupError
from pipeline.sinks.kinds import command
from pipeline.sinks.sink import SinkContext
from tests.runs import wait_until
from tests.unit.sinks.events import LOG_ID, numbered


def make(*argv: str, **options: Any) -> command.Command:
    config = command.Config.model_validate({"command": argv, **options})
    sink = command.create(config, SinkContext("notify", "run-1", Path()))
    sink.open(LOG_ID)
    return sink


def python(code: str, *arguments: str, **options: Any) -> command.Command:
    return make(sys.executable, "-c", code, *arguments, **options)


def test_it_gets_the_event_and_its_arguments_as_they_are(tmp_path: Path) -> None:
    sink = python(
        "import sys; open(sys.argv[1], 'a').write(sys.stdin.read() + '\\n' + sys.argv[2] + '\\n')",
        str(tmp_path / "got"),
        "$(touch pwned); `id` && *",
    )
    sink.write(numbered(1))
    sink.write(numbered(2))
    sink.beat(2)
    sink.close()
    first, argument, second, _ = (tmp_path / "got").read_text().splitlines()
    assert [json.loads(first), json.loads(second)] == [numbered(1), numbered(2)]
    assert argument == "$(touch pwned); `id` && *"


def test_one_that_fails_is_run_again_and_its_last_words_are_told() -> None:
    with pytest.raises(Disconnected, match=r" ended with 3: no paper$"):
        python("import sys; print('first', file=sys.stderr); sys.exit(print('no paper', file=sys.stderr) or 3)").write(
            numbered(1)
        )
    with pytest.raises(Disconnected, match=r" was killed$"):
        python("import os; os.kill(os.getpid(), 9)").write(numbered(1))


def test_without_a_place_for_its_words_it_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(Disconnected, match="cannot be run: no temporary file: No such file or directory"):
        python("pass").write(numbered(1))


def test_one_that_does_not_read_is_no_failure() -> None:
    event = numbered(1) | {"reason": "x" * 1_000_000}
    python("import os; os.close(0)").write(event)


def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    """Its child holds the pipes open, and goes with it."""
    script = 'sleep 1000 & echo $! > "$0".new; mv "$0".new "$0"; wait'
    sink = make("sh", "-c", script, str(tmp_path / "pid"), timeout_s=2)
    began_s = time.monotonic()
    with pytest.raises(Disconnected, match=r"took longer than 2 s and was killed"):
        sink.write(numbered(1))
    assert time.monotonic() - began_s < 30
    pid = (tmp_path / "pid").read_text().strip()
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text(), "its end")


def test_one_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="sink notify: 'no-such-program' is not a program that can be run here"):
        make("no-such-program")
    program = tmp_path / "program"
    program.write_text("#!/nowhere/at/all\n")
    program.chmod(0o755)
    sink = make(str(program))
    with pytest.raises(Disconnected, match="cannot be run"):
        sink.write(numbered(1))


def test_a_command_is_a_list() -> None:
    for bad in ("echo hello", [], [1]):
        with pytest.raises(ValidationError):
            command.Config.model_validate({"command": bad})
