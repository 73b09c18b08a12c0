"""What each runtime costs for one picture, with one thread, beside the others on the same network.

Each runs in a process of its own, so that none pays for another's memory, libraries or threads. They are loaded one
after the other and then take turns, so that a machine that changes its pace changes it for all; ratios are medians
over the turns.

``python -m pipeline.benchmarks.backends`` is one such process: a ``Task`` on its first line of input, a ``Loaded`` as
answer, then a ``Turn`` for every further line.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from pipeline import plugins
from pipeline.benchmarks.bare import Failed
from pipeline.benchmarks.reference import child_environment
from pipeline.errors import ConfigError, PipelineError

REFERENCE = "onnxruntime"
ANSWER_MAX_S = 180.0
"""A runtime that has not answered by then is skipped."""

Tell = Callable[[str], None]


class Task(msgspec.Struct, frozen=True):
    """What one process is to do. pictures: in each turn."""

    model: str
    backend: str
    models_dir: str | None
    pictures: int


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """load_s: from nothing, the framework's import included, to a backend. first_ms: its first picture, wall time.

    resident_mb: of the whole process behind that picture; added_mb: by loading and that picture.
    """

    load_s: float
    first_ms: float
    resident_mb: float
    added_mb: float


class Turn(msgspec.Struct, frozen=True, tag=True):
    """One picture's time in the middle of one turn. cpu_ms: of all threads of the process."""

    cpu_ms: float
    wall_ms: float


class Refused(Failed, frozen=True, tag=True):
    """Instead of either: why this runtime does not run."""


_ANSWERS = msgspec.json.Decoder(Loaded | Turn | Refused)


@dataclass(slots=True)
class _Runtime:
    """One runtime's process, seen from outside."""

    kind: str
    process: subprocess.Popen[bytes]
    loaded: Loaded | None = None
    turns: list[Turn] = field(default_factory=list)
    skipped: str = ""

    def ask(self, line: bytes) -> None:
        """Sends a line and takes in the answer; where there is none, or a refusal, ``skipped`` says why."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        watch = threading.Timer(ANSWER_MAX_S, self.process.kill)
        watch.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # its end, or its answer before it, says more
                self.process.stdin.write(line + b"\n")
                self.process.stdin.flush()
            answer = self.process.stdout.readline()
        finally:
            watch.cancel()
        if not answer:
            self.skipped = f"its process ended without an answer (exit code {self.process.wait()})"
            return
        match _ANSWERS.decode(answer):
            case Loaded() as loaded:
                self.loaded = loaded
            case Turn() as turn:
                self.turns.append(turn)
            case Refused() as refused:
                self.skipped = refused.error


def measure(
    model: str,
    kinds: Sequence[str] = (),
    models_dir: Path | None = None,
    *,
    rounds: int = 7,
    pictures: int = 20,
    tell: Tell = lambda _: None,
) -> dict[str, Any]:
    """The figures of all runtimes, or of ``kinds``, in their documented JSON form, the cheapest first.

    Raises ``ConfigError`` where not one of them runs.
    """
    with contextlib.ExitStack() as stack:
        runtimes = []
        for kind in kinds or plugins.kinds("backend"):
            tell(f"{kind}: loading")
            runtime = stack.enter_context(_started(kind))
            task = Task(model, kind, str(models_dir) if models_dir else None, pictures)
            runtime.ask(msgspec.json.encode(task))
            runtimes.append(runtime)
        for number in range(rounds):
            tell(f"turn {number + 1} of {rounds}")
            for runtime in runtimes:
                if not runtime.skipped:
                    runtime.ask(b"")
    ran = [runtime for runtime in runtimes if not runtime.skipped]
    skipped = [{"backend": r.kind, "reason": r.skipped} for r in runtimes if r.skipped]
    if not ran:
        raise ConfigError(f"not one runtime runs {model}: {skipped[0]['backend']}: {skipped[0]['reason']}")
    reference = next((runtime for runtime in ran if runtime.kind == REFERENCE), None)
    rows = [_row(runtime, reference) for runtime in ran]
    return {
        "model": model,
        "threads": 1,
        "rounds": rounds,
        "pictures_per_round": pictures,
        "backends": sorted(rows, key=lambda row: row["cpu_ms"]),
        "skipped": skipped,
    }


def _row(runtime: _Runtime, reference: _Runtime | None) -> dict[str, Any]:
    assert runtime.loaded is not None
    ratios: dict[str, float | None] = {"cpu_ratio": None, "wall_ratio": None}
    if reference is not None:
        pairs = list(zip(runtime.turns, reference.turns, strict=True))
        ratios["cpu_ratio"] = round(statistics.median(mine.cpu_ms / its.cpu_ms for mine, its in pairs), 3)
        ratios["wall_ratio"] = round(statistics.median(mine.wall_ms / its.wall_ms for mine, its in pairs), 3)
    return {
        "backend": runtime.kind,
        "cpu_ms": round(statistics.median(turn.cpu_ms for turn in runtime.turns), 2),
        "wall_ms": round(statistics.median(turn.wall_ms for turn in runtime.turns), 2),
        **ratios,
        "load_s": round(runtime.loaded.load_s, 3),
        "first_ms": round(runtime.loaded.first_ms, 1),
        "resident_mb": round(runtime.loaded.resident_mb, 1),
        "resident_added_mb": round(runtime.loaded.added_mb, 1),
    }


@contextlib.contextmanager
def _started(kind: str) -> Iterator[_Runtime]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.benchmarks.backends"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # frameworks tell a lot there; what matters is in the answer
        start_new_session=True,  # Ctrl-C is for the command, which ends its children
        env=child_environment(),
    )
    try:
        yield _Runtime(kind, process)
    finally:
        process.kill()
        process.communicate()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _answers(task: Task) -> Iterator[Loaded | Turn]:
    """In the child. Raises ``PipelineError`` where the runtime does not run."""
    from pipeline import resources
    from pipeline.inference.detector import build_backend
    from pipeline.inference.model_card import read_card
    from pipeline.inference.verify import picture

    models_dir = Path(task.models_dir) if task.models_dir else None
    card_path = resources.card_path(task.model, models_dir)
    card = read_card(card_path)
    tensor = picture(card.input, 1)
    before_mb, started = _resident_mb(), time.perf_counter()
    backend = build_backend(card, card_path, task.backend, {"threads": 1}, models_dir)
    loaded = time.perf_counter()
    backend.infer(tensor)
    done = time.perf_counter()
    resident_mb = _resident_mb()
    yield Loaded(loaded - started, (done - loaded) * 1e3, resident_mb, resident_mb - before_mb)
    while True:
        cpu_ms, wall_ms = [], []
        for _ in range(task.pictures):
            cpu, wall = time.process_time(), time.perf_counter()
            backend.infer(tensor)
            cpu_ms.append((time.process_time() - cpu) * 1e3)
            wall_ms.append((time.perf_counter() - wall) * 1e3)
        yield Turn(statistics.median(cpu_ms), statistics.median(wall_ms))


def main() -> int:
    answers_to = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # some frameworks print on standard output
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    answers = _answers(task)
    try:
        while True:
            answers_to.write(msgspec.json.encode(next(answers)) + b"\n")
            if not sys.stdin.buffer.readline():
                return 0
    except PipelineError as error:
        answers_to.write(msgspec.json.encode(Refused(str(error), error.exit_code)) + b"\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
