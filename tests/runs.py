"""Whole runs of the program, in processes as users start them: started, watched, hit, and looked at afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from pipeline import resources
from pipeline.errors import StartupError
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.run_directory import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, str(ROOT / "run_pipeline.py"))
T = TypeVar("T")
PATIENCE_S = 90.0
"""Far more than anything takes: other work may share the processors."""


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Looks again and again, often; fails when ``what`` does not come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.002)


def kill(pid: int) -> bool:
    """kill -9; returns False where the process has just ended by itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def free_port() -> int:
    """A TCP port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes_with(run_base: Path) -> dict[int, str]:
    """The living processes whose runs lie in ``run_base``: pid → last argument, which is a stage's name."""
    wanted = f"{ENVIRONMENT}={run_base}\0".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes() + b"\0":
                    arguments = (entry / "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = arguments[-2].decode() if len(arguments) > 1 else ""
    return found


class Told(NamedTuple):
    """What an event says that does not depend on when and how often a file was run."""

    seq: int
    phase: str
    kind: str
    source: str
    track: int
    stream_s: float
    confidence: float
    reason: str | None


def told_in(path: Path) -> list[Told]:
    """The events of a JSON lines file; those of one episode must have one id, and no two episodes the same."""
    events = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert len({event["log_id"] for event in events}) <= 1
    begun = [event["id"] for event in events if event["phase"] == "new"]
    assert len(set(begun)) == len(begun)
    assert {event["id"] for event in events} == set(begun)
    return [Told(*(event[name] for name in Told._fields)) for event in events]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run leaves behind for its caller."""

    code: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The one JSON object on standard output."""
        [line] = self.stdout.splitlines()
        found: dict[str, Any] = json.loads(line)
        return found

    @property
    def errors(self) -> list[str]:
        """What standard error says is wrong, without what is said in passing."""
        return [line for line in self.stderr.splitlines() if line.startswith(("error: ", "ERROR "))]


class Run:
    """One run that is going on."""

    def __init__(self, process: subprocess.Popen[str], run_base: Path) -> None:
        self._process = process
        self._base = run_base

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def over(self) -> bool:
        return self._process.poll() is not None

    def stage_pid(self, job: str) -> int | None:
        """The process that does ``job`` now (``capture``, ``inference``, ``annotator`` or ``events``)."""
        names = processes_with(self._base)
        return next((pid for pid, name in names.items() if name.partition("/")[0] == job), None)

    def directory(self) -> Path | None:
        return next((path for path in self._base.iterdir() if path.is_dir()), None)

    @contextlib.contextmanager
    def head(self, source: str) -> Iterator[Head]:
        """The ring's header of a source, from the moment when it is there."""
        head = self._attach(Head.attach, source)
        with contextlib.closing(head):
            yield head

    @contextlib.contextmanager
    def results(self, source: str) -> Iterator[ResultLog]:
        log = self._attach(ResultLog.attach, source)
        with contextlib.closing(log):
            yield log

    def _attach(self, attach: Callable[[Path, str], T], source: str) -> T:
        found: list[T] = []

        def there() -> bool:
            directory = self.directory()
            if directory is not None:
                with contextlib.suppress(FileNotFoundError, StartupError, ValueError):  # not there, or half made
                    found.append(attach(directory, source))
            assert not self.over, f"the run ended before it began: {self.finish()}"
            return bool(found)

        wait_until(there, f"shared memory of {source}")
        return found[0]

    def await_stage(self, job: str) -> int:
        """The process that does ``job``, as soon as there is one."""
        wait_until(lambda: self.stage_pid(job) is not None or self.over, f"a process for {job}")
        pid = self.stage_pid(job)
        assert pid is not None, f"there is no process for {job}: {self.finish()}"
        return pid

    def signal(self, number: int) -> None:
        """To the whole foreground group, as a terminal does."""
        os.killpg(self._process.pid, number)

    def finish(self, timeout_s: float = PATIENCE_S) -> Outcome:
        stdout, stderr = self._process.communicate(timeout=timeout_s)
        assert "Traceback" not in stderr, stderr
        return Outcome(self._process.returncode, stdout, stderr)


class Program:
    """The command line in one directory, with shared memory and weights of its own."""

    def __init__(self, cwd: Path, run_base: Path, models_dir: Path) -> None:
        self.cwd = cwd
        self.run_base = run_base
        self.models_dir = models_dir
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: object, command: Sequence[str] = COMMAND, **environment: str) -> Run:
        """``command`` with ``arguments`` as the leader of a process group of its own."""
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=self.cwd,
            env=self._environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self._started.append(process)
        return Run(process, self.run_base)

    def run(self, *arguments: object, timeout_s: float = PATIENCE_S, **environment: str) -> Outcome:
        return self.start(*arguments, **environment).finish(timeout_s)

    def _environment(self) -> dict[str, str]:
        own = {
            ENVIRONMENT: str(self.run_base),
            resources.MODELS_ENV: str(self.models_dir),
            "XDG_CACHE_HOME": str(self.cwd),
            "XDG_STATE_HOME": str(self.cwd / "state"),
        }
        return {**os.environ, **own}

    def assert_nothing_left(self) -> None:
        """No process, no shared memory, and nothing half-made beside the recordings."""
        assert processes_with(self.run_base) == {}
        assert list(self.run_base.iterdir()) == []
        assert [path.name for path in self.cwd.rglob("*") if ".part-" in path.name or ".joining" in path.name] == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        for pid in processes_with(self.run_base):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not processes_with(self.run_base), "the end of the killed processes")
