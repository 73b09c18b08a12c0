"""One stage's process as the supervisor sees it: started, listened to, ended, and started again within its budget."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

from pipeline.budget import RESTARTS_WITHIN_S, Budget
from pipeline.child import Task, framed, launch
from pipeline.errors import EXIT_CONFIG, EXIT_DONE, EXIT_FAILED, EXIT_MACHINE
from pipeline.plan import StageSpec
from pipeline.types import Health

State = Literal["waiting", "starting", "running", "done", "failed"]

_LINES_KEPT = 20
_PARSER_FAULTS = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV})
_PARSER_FAULTS_MAX = 2
"""A model's file that takes the runtime's own parser down while it is loaded will do so every time."""

log = logging.getLogger(__name__)


class StageEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What others may know of a stage's process. start_at_s: monotonic clock, of one that waits to be started."""

    name: str
    state: State
    pid: int | None
    restarts: int
    reason: str | None
    start_at_s: float


class StageProcess:
    """States: waiting (to be started, also again) → starting → running → done or failed.

    late: it has come to a site that was at work.
    """

    def __init__(self, spec: StageSpec, *, late: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.spec = spec
        self.late = late
        self.state: State = "waiting"
        self.reason: str | None = None
        self.exit_code = EXIT_DONE
        self.restarts = 0
        self.lives = 0
        self.health: Health | None = None
        self.ever_ran = False
        self.start_at_s = 0.0
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._beat_s = 0.0
        self._ran_s: float | None = None
        self._budget = Budget()
        self._parser_faults = 0
        self._told_to_end = self._replaced = False
        self._hung: str | None = None
        self._partial = b""
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self.exit_descriptor = -1

    @property
    def ended(self) -> bool:
        return self.state in ("done", "failed")

    @property
    def alive(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def entry(self) -> StageEntry:
        return StageEntry(
            name=self.spec.name,
            state=self.state,
            pid=self.pid,
            restarts=self.restarts,
            reason=self.reason,
            start_at_s=self.start_at_s,
        )

    @property
    def silent_s(self) -> float:
        """Seconds since it was started or last heard of."""
        return self._clock() - self._beat_s

    def start(self, task: Task, inherited: int) -> None:
        """Starts the process and gives it its task.

        A machine that lacks what a process takes (memory, descriptors) counts as a crash.
        inherited: a file descriptor that it keeps open as long as it lives.
        """
        self._lines.clear()
        self._partial = b""
        self._told_to_end = False
        self._hung = None
        self._ran_s = None
        try:
            self._process, self.exit_descriptor = launch(self.spec.name, inherited)
        except OSError as error:
            self._back_off(f"not started: {error.strerror}")
            return
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        os.set_blocking(self._process.stderr.fileno(), False)
        try:
            self._process.stdin.write(framed(task))
            self._process.stdin.flush()
        except BrokenPipeError:
            log.debug("%s died before it had its task", self.spec.name)
        self.state = "starting"
        self.lives += 1
        self._beat_s = self._clock()

    def tell(self, spec: StageSpec) -> None:
        """Its sources from now on. One that is not there (any more) gets them with its next task."""
        self.spec = spec
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(framed(list(spec.sources)))
                self._process.stdin.flush()

    def begin_again(self, spec: StageSpec) -> None:
        """With a new task, at once; that is no failure."""
        self.spec = spec
        if self._process is None:
            self.state, self.start_at_s = "waiting", 0.0
        else:
            self._replaced = True
            self._process.kill()

    def heard(self, health: Health) -> None:
        """Takes a sign of life; one of an earlier process is not believed."""
        if self._process is None or health.pid != self._process.pid:
            return
        self.health = health
        self._beat_s = self._clock()
        if health.state != "starting" and self.state == "starting":
            self.state = "running"
            self.ever_ran = True
            self._ran_s = self._beat_s
            self._parser_faults = 0

    @property
    def error_descriptor(self) -> int:
        assert self._process is not None
        assert self._process.stderr is not None
        return self._process.stderr.fileno()

    def listen(self) -> None:
        """Passes on what the process has written to standard error."""
        while True:
            try:
                chunk = os.read(self.error_descriptor, 65536)
            except BlockingIOError:
                return
            if not chunk:
                return
            *lines, self._partial = (self._partial + chunk).split(b"\n")
            for line in lines:
                self._pass_on(line.decode(errors="replace"))

    def _pass_on(self, line: str) -> None:
        level, tab, text = line.partition("\t")
        known = logging.getLevelNamesMapping().get(level) if tab else None
        if known is None:
            level, text, known = "WARNING", line, logging.DEBUG
        if text.strip():
            self._lines.append(text)
            log.log(known, "%s: %s", self.spec.name, text)

    def reap(self) -> bool:
        """Whether the process has ended just now; its exit then decides the state."""
        if self._process is None or self._process.poll() is None:
            return False
        self.listen()
        if self._partial:
            self._pass_on(self._partial.decode(errors="replace"))
        code = self._process.returncode
        assert self._process.stderr is not None
        assert self._process.stdin is not None
        self._process.stderr.close()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        os.close(self.exit_descriptor)
        self.exit_descriptor = -1
        self._process = None
        if self.ended:
            return True
        if self._replaced:
            self._replaced, self.state, self.start_at_s = False, "waiting", 0.0
        elif code == EXIT_DONE:
            self.state = "done"
        elif code == -signal.SIGTERM and self._told_to_end:
            self.state = "waiting"  # it had not yet come so far as to end well when asked to
        elif code in (EXIT_FAILED, EXIT_CONFIG, EXIT_MACHINE):
            if not self._lines:
                log.error("%s ended with exit code %d and did not say why", self.spec.name, code)
            self._fail(code, self._lines[-1] if self._lines else f"exit code {code}")
        else:
            self._crashed(code)
        return True

    def _crashed(self, code: int) -> None:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"crashed with exit code {code}"
        if self.spec.runtime and self.state == "starting" and -code in _PARSER_FAULTS:
            self._parser_faults += 1
            if self._parser_faults >= _PARSER_FAULTS_MAX:
                unreadable = f"model file unreadable by {self.spec.runtime}"
                log.error("%s: %s: it was %s whenever it loaded it", self.spec.name, unreadable, how)
                self._fail(EXIT_MACHINE, unreadable)
                return
        self._back_off(how)

    def _back_off(self, how: str) -> None:
        """One failure more: it is started again after a while, or never if that is too often and others wait."""
        ran_s = 0.0 if self._ran_s is None else self._beat_s - self._ran_s
        delay_s = self._budget.spend(self._clock(), ran_s)
        if self._budget.exceeded and not (self.spec.lasting and self.ever_ran):
            often = f"{how}, {self._budget.crashes} times within {RESTARTS_WITHIN_S:g} s"
            log.error("%s was %s, and is not started again", self.spec.name, often)
            self._fail(EXIT_FAILED, often)
            return
        when = f" in {delay_s:.0f} s" if delay_s >= 1 else ""
        log.warning("%s was %s; starting it again%s", self.spec.name, how, when)
        self.reason = self._hung or how
        self.restarts += 1
        self.start_at_s = self._clock() + delay_s
        self.state = "waiting"

    def _fail(self, code: int, reason: str) -> None:
        self.state, self.exit_code, self.reason = "failed", code, reason

    def give_up(self, reason: str) -> None:
        """Not to be started again."""
        self.kill()
        if not self.ended:
            log.warning("%s %s", self.spec.name, reason)
            self._fail(EXIT_FAILED, reason)

    def end_well(self) -> None:
        """There is nothing (more) to do for it: it need not be started."""
        if self._process is None and not self.ended:
            self.state = "done"

    def terminate(self) -> None:
        if self._process is not None:
            self._told_to_end = True
            self._process.terminate()

    def kill(self, hung: str | None = None) -> None:
        """hung: what is told as the reason, where it is to be started again."""
        if self._process is not None:
            self._hung = hung
            self._process.kill()

    def hurry(self) -> None:
        """No delay before it is started again."""
        self.start_at_s = 0.0

    def wait(self, timeout_s: float) -> None:
        if self._process is not None:
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                log.error("%s (pid %d) does not end", self.spec.name, self._process.pid)
            self.reap()
