"""The reference: as many bare processes as there are processors, all at the same time."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pipeline import __file__ as package_file
from pipeline import procfs
from pipeline.benchmarks.bare import GO, READY, Failed, Task, Timing
from pipeline.errors import EXIT_CONFIG, EXIT_MACHINE, ConfigError, PipelineError, RuntimeFailure, StartupError

STEADY_FROM = 10
"""Frames before this one are the start."""


@dataclass(frozen=True, slots=True)
class BareCost:
    """Processor time of one frame's steps, in milliseconds."""

    decode: float
    model: float
    encode: float

    @property
    def total(self) -> float:
        return self.decode + self.model + self.encode


@dataclass(frozen=True, slots=True)
class BareRun:
    """Bare processes side by side. others: processors that something else kept busy meanwhile."""

    timings: Sequence[Timing]
    others: float


def run_bare(task: Task, processes: int) -> BareRun:
    """Runs ``processes`` of them side by side, begun together once all are ready. Raises ``PipelineError``."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(_process(task)) for _ in range(processes)]
        for process in running:
            answer = _answer(process)
            if answer != READY:
                raise _refusal(answer)
        started_s, busy_s = time.monotonic(), procfs.machine_busy_s()
        for process in running:
            _tell(process, GO)
        timings = [_timing(_answer(process)) for process in running]
        used_s = sum(map(sum, (step for t in timings for step in (t.decode_ns, t.model_ns, t.encode_ns)))) / 1e9
        elsewhere_s = procfs.machine_busy_s() - busy_s - used_s
        return BareRun(timings, max(0.0, elsewhere_s / (time.monotonic() - started_s)))


def wall_ms_per_frame(timings: Sequence[Timing]) -> float:
    """Of all processes together, while all of them are in their steady state: the time over the frames in it."""
    start = max(timing.finished_ns[STEADY_FROM - 1] for timing in timings)
    end = min(timing.finished_ns[-1] for timing in timings)
    frames = sum(start < finished <= end for timing in timings for finished in timing.finished_ns)
    return (end - start) / frames / 1e6


def cost_of(timings: Sequence[Timing]) -> BareCost:
    """Mean processor time of each step in the steady state."""

    def mean_ms(steps: Sequence[list[int]]) -> float:
        return statistics.fmean(ns for step in steps for ns in step[STEADY_FROM:]) / 1e6

    return BareCost(
        mean_ms([timing.decode_ns for timing in timings]),
        mean_ms([timing.model_ns for timing in timings]),
        mean_ms([timing.encode_ns for timing in timings]),
    )


def child_environment() -> dict[str, str]:
    """A child finds this very package, installed or not."""
    here = str(Path(package_file).resolve().parents[1])
    given = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{given}" if given else here}


def failure(text: str, exit_code: int) -> PipelineError:
    """A child's error as it would be raised here."""
    kinds: dict[int, type[PipelineError]] = {EXIT_CONFIG: ConfigError, EXIT_MACHINE: StartupError}
    return kinds.get(exit_code, RuntimeFailure)(text)


@contextlib.contextmanager
def _process(task: Task) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.benchmarks.bare"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the command, which ends its children
        env=child_environment(),
    )
    try:
        _tell(process, msgspec.json.encode(task).decode())
        yield process
    finally:
        process.kill()
        process.communicate()


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # its answer, or the lack of one, says more
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def _timing(answer: str) -> Timing:
    try:
        timing = msgspec.json.decode(answer, type=Timing)
    except msgspec.DecodeError:
        raise _refusal(answer) from None
    if len(timing.finished_ns) < 2 * STEADY_FROM:
        raise ConfigError(f"too short to measure on: {len(timing.finished_ns)} frames, {2 * STEADY_FROM} are needed")
    return timing


def _refusal(answer: str) -> PipelineError:
    try:
        failed = msgspec.json.decode(answer, type=Failed)
    except msgspec.DecodeError:
        return RuntimeFailure("a bare process of the reference died")
    return failure(failed.error, failed.exit_code)
