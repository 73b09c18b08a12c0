"""The inference stage: frames of several sources through one detector, results in order.

Several frames are in flight at a time, each in its own thread (the runtimes release the interpreter's lock); what comes
back is put in order again before tracking (``lane``).

A worker that is done commits what is ready and takes the next frame itself: to hand over to the stage's own thread and
back costs two changes of thread a frame, and a processor is idle meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pipeline.inference.lane import Lane, Pending
from pipeline.inference.views import Looking
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import BellListener

AHEAD_MAX = 3
"""So many times the frames that are looked at side by side may be on their way, the others done and waiting."""

log = logging.getLogger(__name__)


class InferenceStage:
    """Takes turns between its sources, the longest-waiting first.

    create_lane: of a source. frame_bell: rung for new frames of any of them. told: the names of the sources from now
    on, each time they have changed: new ones are taken up, those that are missing are let go when they have ended.
    """

    def __init__(
        self,
        name: str,
        sources: Sequence[str],
        create_lane: Callable[[str], Lane],
        create_detector: Callable[[], Looking],
        frame_bell: BellListener,
        *,
        in_flight: int,
        told: Callable[[], Sequence[str] | None] = lambda: None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self._wanted = list(sources)
        self._create_lane = create_lane
        self._create_detector = create_detector
        self._frame_bell = frame_bell
        self._in_flight = in_flight
        self._told = told
        self._clock_ns = clock_ns
        self._lock = threading.Lock()  # of all that follows, and of the lanes
        self._lanes: list[Lane] = []
        self._failure: BaseException | None = None
        self._closed = False
        self._busy = 0
        self._all_busy = False
        self._detector: Looking | None = None
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="detect")
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._mask_ids: frozenset[int] = frozenset()

    def open(self) -> None:
        self._detector = self._create_detector()
        self._mask_ids = frozenset(i for i, label in enumerate(self._detector.labels) if label == "mask")
        for source in self._wanted:
            self._take_up(source)

    def _take_up(self, source: str) -> None:
        lane = self._create_lane(source)
        lane.clock_ns = self._clock_ns
        lane.ahead_max = AHEAD_MAX * self._in_flight
        lane.mask_ids = self._mask_ids
        self._lanes.append(lane)
        lane.open()

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        self._frame_bell.clear()
        self._clear_wake()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            self._follow()
            progress = self._commit_all() + self._start_all()
            self._tell_busy()
            for lane in self._lanes:
                if lane.drained and not lane.results.finished and lane.may_start:
                    lane.finish()
            if all(lane.results.finished for lane in self._lanes):
                return None
        return 0 if progress else BELL_TIMEOUT_S

    # -- sources that come and go

    def _follow(self) -> None:
        told = self._told()
        if told is not None:
            self._wanted = list(told)
        elif all(lane.source_id in self._wanted for lane in self._lanes):
            return
        for lane in self._lanes[:]:
            if lane.over or (lane.results.finished and lane.source_id not in self._wanted):
                self._lanes.remove(lane)
                lane.close()
        here = [lane.source_id for lane in self._lanes]
        for source in self._wanted:
            if source not in here:
                self._take_up(source)

    # -- starting; all of it under the lock

    def _start_all(self) -> int:
        """Gives work to every free worker; returns how many were set to work."""
        started = 0
        while (job := self._next_job()) is not None:
            self._pool.submit(self._work, *job)
            started += 1
        return started

    def _next_job(self) -> tuple[Lane, Pending] | None:
        """The frame that a free worker is to look at next; None where there is no worker or no frame."""
        for lane in self._lanes:
            lane.pass_over()
        while self._busy < self._in_flight and not self._closed:
            ready = [lane for lane in self._lanes if lane.ready]
            if not ready:
                return None
            lane = min(ready, key=lambda lane: lane.started_ns)
            if self._busy and not (lane.proven and self._all_proven()):
                return None
            pending = lane.take()
            if pending.frame is not None:
                self._busy += 1
                return lane, pending
            lane.commit_ready()
            lane.pass_over()
        return None

    def _tell_busy(self) -> None:
        """While every worker has a frame no bell need be rung for another: each comes for one when it is done."""
        if self._all_busy != (self._busy == self._in_flight):
            self._all_busy = not self._all_busy
            for lane in self._lanes:
                lane.head.busy = self._all_busy
            if not self._all_busy:
                self._wake()  # a frame that came between the last look and this had no bell

    def _all_proven(self) -> bool:
        """A source's first frame is looked at alone, so that one which takes the process down is known by name."""
        return all(lane.proven or not lane.pending for lane in self._lanes)

    # -- in the workers

    def _work(self, lane: Lane, pending: Pending) -> None:
        """Looks at this frame, commits what is ready, and goes on with the next frame as long as there is one."""
        job: tuple[Lane, Pending] | None = (lane, pending)
        while job is not None:
            self._look(*job)
            with self._lock:
                job[1].done = True
                self._busy -= 1
                job = self._go_on()

    def _look(self, lane: Lane, pending: Pending) -> None:
        assert self._detector is not None
        assert pending.frame is not None
        pending.begun_ns = self._clock_ns()
        try:
            detections = self._detector.detect_i420(pending.frame.image)
        except BaseException as error:  # noqa: BLE001  raised when it is this frame's turn
            pending.error = error
            return
        if lane.reader.valid(pending.frame):
            pending.detections = detections
        else:
            pending.reason = "expired"

    def _go_on(self) -> tuple[Lane, Pending] | None:
        """Does what ``step`` would do, and returns the next frame for this worker."""
        job = None
        try:
            if self._failure is None and not self._closed:
                self._commit_all()
                job = self._next_job()
                self._start_all()
                self._tell_busy()
        except BaseException as error:  # noqa: BLE001  raised by ``step``, in the stage's own thread
            self._failure = error
        if self._failure is not None or any(lane.drained for lane in self._lanes):
            self._wake()
        return job

    def _commit_all(self) -> int:
        return sum(lane.commit_ready() for lane in self._lanes)

    # -- waking

    @property
    def wakers(self) -> Sequence[Any]:
        return [self._wake_read, self._frame_bell.socket]

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            return  # it is awake already

    def _clear_wake(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            return

    @property
    def counters(self) -> dict[str, float]:
        return {"in_flight": self._busy}

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._wake_read >= 0:
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_read = self._wake_write = -1
        if self._detector is not None:
            self._detector.close()
            self._detector = None
        for lane in self._lanes:
            lane.close()
        self._lanes = []
