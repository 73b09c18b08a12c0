"""One real run of the pipeline, as a user starts it, watched from outside.

What is read while it runs costs it next to nothing: counters in shared memory, twenty times a second, and /proc at the
beginning and the end of the steady state.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import plan, procfs
from pipeline.benchmarks.reference import STEADY_FROM, child_environment, failure
from pipeline.errors import RuntimeFailure
from pipeline.procfs import FamilyTimes
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.run_directory import base_directory

FINE_S, COARSE_S = 0.002, 0.05
MEMORY_EVERY_S = 0.25
_BEFORE_END = 24
"""Frames: processor time is read when so many are still to be captured, while every stage is at work."""
_END_MAX_S = 20.0
_ENTRY = "import sys; from pipeline.cli import main; sys.exit(main())"


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run was, and what it and everybody else had used. at_ns: monotonic clock."""

    at_ns: int
    written: int
    times: FamilyTimes
    busy_s: float


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run. wall_ms and cpu_ms: of a frame, in the steady state, from the tenth frame on.

    Wall time goes to the last frame written, processor time to shortly before the end, while all stages are at work.
    cpu_ms_by_stage: of each process. first_result_s: from the start of the command. finish_s: from the last frame
    written to the end of the command: joining the parts. others: processors that something else kept busy.
    pss_mb: (seconds since the start of the command, all processes together), only where it was asked for.
    """

    frames: int
    wall_ms: float
    cpu_ms: float
    cpu_ms_by_stage: dict[str, float]
    first_result_s: float
    finish_s: float
    others: float
    pss_mb: Sequence[tuple[float, float]]
    report: dict[str, Any]


def observe(source: str, detector: Sequence[str], *, memory: bool = False) -> RunFigures:
    """``run --source SOURCE --record`` into a file that is thrown away. Raises ``PipelineError`` where it fails."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, open(Path(folder) / "log", "w+") as log:  # noqa: PTH123
        record = str(Path(folder) / "out.mp4")
        started_ns = time.monotonic_ns()
        command = ["run", "--json", "--source", source, "--record", record, *detector]
        with _process([sys.executable, "-c", _ENTRY, *command], log) as process:
            watch = _Watch(process, started_ns, memory)
            with contextlib.suppress(_Ended):
                watch.through()
            out, _ = process.communicate()
            ended_ns = time.monotonic_ns()
        if process.returncode:
            log.seek(0)
            raise failure(_error_in(log.read()), process.returncode)
        return watch.figures(json.loads(out), ended_ns)


class _Ended(Exception):
    """The command ended while it was still waited for."""


class _Watch:
    """Follows one run and notes when its steady state begins and ends."""

    def __init__(self, process: subprocess.Popen[str], started_ns: int, memory: bool) -> None:
        self._process = process
        self._started_ns = started_ns
        self._memory = memory
        self._memory_due_ns = started_ns
        self._pss_mb: list[tuple[float, float]] = []
        self._stages: list[str] = []
        self._first_result_ns = 0
        self._first: Moment | None = None
        self._busy: Moment | None = None
        self._last: tuple[int, int] | None = None

    def through(self) -> None:
        """Until the last frame is written; raises ``_Ended`` where the command ends before."""
        directory, source = self._find()
        with contextlib.closing(Head.attach(directory, source)) as head:
            while head.position(plan.ANNOTATOR) < STEADY_FROM:
                self._wait(FINE_S)
            self._first = self._moment(head)
            with contextlib.closing(ResultLog.attach(directory, source)) as results:
                self._first_result_ns = results.first_result_ns or 0
            while not _nearly_over(head):
                self._wait(COARSE_S)
            self._busy = self._moment(head)
            while head.end_seq is None or head.position(plan.ANNOTATOR) < head.end_seq:
                self._wait(FINE_S)
            self._last = time.monotonic_ns(), head.position(plan.ANNOTATOR)

    def _find(self) -> tuple[Path, str]:
        """The run directory and the source's name; the directory is described once everything in it is there."""
        while True:
            for described in base_directory().glob("*/site.json"):
                with contextlib.suppress(FileNotFoundError):
                    description = json.loads(described.read_text())
                    if description["pid"] == self._process.pid:
                        parts = [stage.partition("/") for stage in description["stages"]]
                        self._stages = [job for job, _, _ in parts]
                        return described.parent, next(source for job, _, source in parts if job == "capture")
            self._wait(FINE_S)

    def _wait(self, seconds: float) -> None:
        if self._process.poll() is not None:
            raise _Ended
        now_ns = time.monotonic_ns()
        if self._memory and now_ns >= self._memory_due_ns:
            self._pss_mb.append(((now_ns - self._started_ns) / 1e9, procfs.family_pss_mb(self._process.pid)))
            self._memory_due_ns = time.monotonic_ns() + round(MEMORY_EVERY_S * 1e9)
        time.sleep(seconds)

    def _moment(self, head: Head) -> Moment:
        at_ns, written = time.monotonic_ns(), head.position(plan.ANNOTATOR)
        return Moment(at_ns, written, procfs.family_times(self._process.pid), procfs.machine_busy_s())

    def figures(self, report: dict[str, Any], ended_ns: int) -> RunFigures:
        if self._first is None or self._busy is None or self._last is None:
            raise RuntimeFailure("the run was over before it could be measured: it takes a longer video")
        first, busy, (last_ns, frames) = self._first, self._busy, self._last
        counts = report["frames"]
        if counts["written"] != counts["decoded"] or report["restarts"]:
            raise RuntimeFailure(f"the run was not a clean one: {json.dumps(report)}")
        by_stage = _by_stage(self._stages, first.times, busy.times)
        return RunFigures(
            frames=frames,
            wall_ms=(last_ns - first.at_ns) / (frames - first.written) / 1e6,
            cpu_ms=_ms_a_frame(busy.times.total_s - first.times.total_s, first, busy),
            cpu_ms_by_stage={stage: _ms_a_frame(used_s, first, busy) for stage, used_s in by_stage.items()},
            first_result_s=(self._first_result_ns - self._started_ns) / 1e9,
            finish_s=(ended_ns - last_ns) / 1e9,
            others=_others(first, busy),
            pss_mb=self._pss_mb,
            report=report,
        )


def _nearly_over(head: Head) -> bool:
    expected = head.expected_frames
    return head.end_seq is not None or (expected is not None and head.next_seq >= expected - _BEFORE_END)


def _others(first: Moment, last: Moment) -> float:
    elsewhere_s = last.busy_s - first.busy_s - (last.times.total_s - first.times.total_s)
    return max(0.0, elsewhere_s / ((last.at_ns - first.at_ns) / 1e9))


def _ms_a_frame(seconds: float, first: Moment, last: Moment) -> float:
    return 1e3 * seconds / max(1, last.written - first.written)


def _by_stage(stages: Sequence[str], first: FamilyTimes, last: FamilyTimes) -> dict[str, float]:
    """Seconds between two moments by stage, as far as all of its processes lived through both."""
    used = {"supervisor": last.parent_s - first.parent_s}
    if len(first.children_s) == len(last.children_s) == len(stages):
        pairs = zip(stages, first.children_s, last.children_s, strict=True)
        used.update({stage: after - before for stage, before, after in pairs})
    return used


@contextlib.contextmanager
def _process(command: Sequence[str], log: Any) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,  # Ctrl-C is for the command, which ends its children
        env=child_environment(),
    )
    with process:  # closes its pipe
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    """Asks twice, which means at once; whatever happens nothing is left."""
    deadline_s = time.monotonic() + _END_MAX_S
    for _ in range(2):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
    try:
        process.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _error_in(log: str) -> str:
    """The line that says why."""
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[0] if errors else lines[-1] if lines else "the run failed"
