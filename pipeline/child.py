"""One stage in one process: ``python -m pipeline.child`` reads its task from standard input and runs it.

The task travels through a pipe and never through arguments or files, because it may hold secrets. What goes to standard
error is one line a message, ``LEVEL<tab>text``; the supervisor reads it. The exit code says what must be done (see
``errors``); ``EXIT_CRASHED`` and signals mean that the stage may be started again.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import zmq

from pipeline import config, plan, wiring
from pipeline.errors import PipelineError
from pipeline.place import Place
from pipeline.stage import run
from pipeline.transport.channel import HealthSender

EXIT_CRASHED = 70
_PR_SET_PDEATHSIG = 1
_LENGTH_BYTES = 4

log = logging.getLogger(__name__)


class Task(msgspec.Struct, frozen=True):
    """What a child must know. values: the expanded configuration. parent: whom it must not outlive."""

    stage: str
    run_id: str
    run_dir: str
    origin: str
    values: dict[str, object]
    restarted: bool
    parent: int
    models_dir: str | None = None
    log_level: int = logging.INFO


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname}\t{super().format(record)}".replace("\n", " | ")


def main() -> int:
    pipe = _Pipe()
    task = pipe.task()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines("%(message)s"))
    logging.basicConfig(level=task.log_level, handlers=[handler])
    stop = _Stop()
    die_with(task.parent)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        return _run(task, context, stop, pipe.sources)
    except PipelineError as error:
        for line in str(error).splitlines():
            log.error("%s", line)
        return error.exit_code
    except Exception as error:  # noqa: BLE001  (whatever it is, the supervisor decides)
        log.error("%s crashed: %s: %s", task.stage, type(error).__name__, error)
        log.debug("%s", traceback.format_exc())
        return EXIT_CRASHED
    finally:
        context.destroy(linger=200)


def _run(task: Task, context: zmq.Context[zmq.Socket[bytes]], stop: _Stop, told: Callable[[], list[str] | None]) -> int:
    site = config.check(task.values, task.origin)
    run_dir = Path(task.run_dir)
    models_dir = Path(task.models_dir) if task.models_dir else None
    here = Place(task.run_id, run_dir, context, task.restarted, models_dir, told)
    health = HealthSender(context, run_dir / plan.HEALTH_SOCKET)
    with contextlib.closing(health):
        stage = wiring.build(site, task.stage, here)
        run(stage, stop_requested=lambda: stop.requested, report=health.send, pid=os.getpid())
    return 0


def launch(stage: str, inherited: int) -> tuple[subprocess.Popen[bytes], int]:
    """A process that waits for its task at standard input, and a descriptor that tells of its end.

    It stands in a session of its own, away from the terminal. stage: its name, which is among the arguments for ``ps``
    alone. inherited: a file descriptor that it keeps open. Raises ``OSError`` and leaves nothing behind.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.child", stage],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=(inherited,),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_python_path())},
    )
    try:
        return process, os.pidfd_open(process.pid)
    except OSError:
        process.kill()
        process.communicate()
        raise


def _python_path() -> list[str]:
    """A child finds this very package, from wherever it was started and whether or not it is installed."""
    here = str(Path(__file__).resolve().parents[1])
    return [here, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != here)]


def framed(message: Task | list[str]) -> bytes:
    """A message for a child's standard input: its length, then it."""
    raw = msgspec.msgpack.encode(message)
    return len(raw).to_bytes(_LENGTH_BYTES, "big") + raw


class _Pipe:
    """Standard input: the task, then the stage's sources whenever they have changed."""

    def __init__(self) -> None:
        self._raw = b""

    def task(self) -> Task:
        while (raw := self._next()) is None:
            if not self._more():
                raise EOFError("there is no task: stages are started by the supervisor")
        os.set_blocking(sys.stdin.fileno(), False)
        return msgspec.msgpack.decode(raw, type=Task)

    def sources(self) -> list[str] | None:
        """The newest, or None where there are none that are new."""
        with contextlib.suppress(BlockingIOError):
            while self._more():
                pass
        newest = None
        while (raw := self._next()) is not None:
            newest = msgspec.msgpack.decode(raw, type=list[str])
        return newest

    def _more(self) -> bool:
        chunk = os.read(sys.stdin.fileno(), 65536)
        self._raw += chunk
        return bool(chunk)

    def _next(self) -> bytes | None:
        end = _LENGTH_BYTES + int.from_bytes(self._raw[:_LENGTH_BYTES], "big")
        if len(self._raw) < max(end, _LENGTH_BYTES):
            return None
        raw, self._raw = self._raw[_LENGTH_BYTES:end], self._raw[end:]
        return raw


class _Stop:
    """SIGTERM asks for a good end; SIGINT goes to the whole foreground group and is the supervisor's business."""

    def __init__(self) -> None:
        self.requested = False
        signal.signal(signal.SIGTERM, self._request)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _request(self, *_: object) -> None:
        self.requested = True


def die_with(parent: int) -> None:
    """Asks the kernel for a SIGTERM when the supervisor is gone, so that a killed one leaves nobody behind (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
