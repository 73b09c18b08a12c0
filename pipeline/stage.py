"""What a stage is, and the one loop that runs any of them.

Only ``run`` loops, sleeps, handles the stop signal and beats the heart; a stage does what is ready and says how long
it may be left alone.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq

from pipeline.errors import RuntimeFailure
from pipeline.types import Health

BELL_TIMEOUT_S = 0.05
"""A lost bell never stops anyone: shared memory is looked at this often anyway."""
HEALTH_INTERVAL_S = 1.0
STOP_GRACE_S = 10.0
"""A stage that was asked to stop and has not come to its end by then gives up."""

log = logging.getLogger(__name__)


class Stage(Protocol):
    """One job in one process: ``open``, ``step`` until it returns None, ``close`` (safe after a failed open)."""

    name: str

    def open(self) -> None: ...

    def step(self) -> float | None:
        """Does what is ready. Returns the seconds that it may be left alone unless a waker rings; None: all done."""

    def stop(self) -> None:
        """Asks for a good end: the following steps drain and end with None."""

    def close(self) -> None: ...

    @property
    def wakers(self) -> Sequence[Any]:
        """ZeroMQ sockets and file descriptors whose readability means that ``step`` has something to do."""

    @property
    def counters(self) -> dict[str, float]:
        """Figures since this process began, for health reports."""


def run(
    stage: Stage,
    *,
    stop_requested: Callable[[], bool],
    report: Callable[[Health], None],
    pid: int,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs ``stage`` from open to close; a stop request reaches it between two steps."""
    beat = 0
    next_report = clock()
    stopping, deadline_s = False, 0.0

    def tell(state: str) -> None:
        nonlocal beat, next_report
        beat += 1
        next_report = clock() + HEALTH_INTERVAL_S
        report(Health(stage.name, pid, state, beat, dict(stage.counters) if state != "starting" else {}))

    with contextlib.ExitStack() as stack:
        stack.callback(stage.close)
        tell("starting")
        stage.open()
        tell("running")
        poller = zmq.Poller()
        for waker in stage.wakers:
            poller.register(waker, zmq.POLLIN)
        while True:
            if not stopping and stop_requested():
                stopping, deadline_s = True, clock() + STOP_GRACE_S
                stage.stop()
            if stopping and clock() > deadline_s:
                raise RuntimeFailure(f"{stage.name} did not come to its end within {STOP_GRACE_S:g} s")
            idle_s = stage.step()
            if idle_s is None:
                break
            if clock() >= next_report:
                tell("draining" if stopping else "running")
            if idle_s > 0:
                idle_s = min(idle_s, BELL_TIMEOUT_S)
                if stage.wakers:
                    poller.poll(max(1, round(idle_s * 1000)))
                else:
                    time.sleep(idle_s)  # a poller that has nothing to poll returns at once
        tell("done")
