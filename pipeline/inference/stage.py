"""The inference stage: frames of several sources through one detector, results in order.

Several frames are in flight at a time, each in its own thread (the runtimes release the interpreter's lock); what comes
back is put in order again before tracking. Every frame gets a Result. A source that waits for us has every frame that
is due (``schedule``) looked at; of any other, a free worker takes the newest frame there is. The tracker carries the
rest.

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

import msgspec

from pipeline.errors import FrameExpired
from pipeline.inference.lane import Lane, Pending
from pipeline.inference.views import Looking
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.types import Detections, Event, FrameRef

ATTEMPTS_MAX = 2
"""A frame that took the process down this often is not looked at again."""

AHEAD_MAX = 3
"""So many times the frames that are looked at side by side may be on their way, the others done and waiting."""

FORGOTTEN_S = 1e-6
"""Apart in time, for frames whose own times are forgotten."""

log = logging.getLogger(__name__)


class InferenceStage:
    """Takes turns between its sources, the longest-waiting first."""

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        create_detector: Callable[[], Looking],
        *,
        in_flight: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self._lanes = list(lanes)
        self._create_detector = create_detector
        self._in_flight = in_flight
        self._clock_ns = clock_ns
        self._lock = threading.Lock()  # of all that follows, and of the lanes
        self._failure: BaseException | None = None
        self._closed = False
        self._busy = 0
        self._all_busy = False
        self._results = 0
        self._detector: Looking | None = None
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="detect")
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._mask_ids: frozenset[int] = frozenset()

    def open(self) -> None:
        self._detector = self._create_detector()
        self._mask_ids = frozenset(i for i, label in enumerate(self._detector.labels) if label == "mask")
        for lane in self._lanes:
            state = lane.results.resume()
            if state is not None:
                lane.analytics.restore(state)
                log.info("%s goes on at frame %d of %s", self.name, lane.results.published, lane.head.source_id)
            lane.cursor = lane.results.published
            lane.reader.move(lane.cursor)
            lane.looked = self._interval_before(lane)
            lane.head.busy = False

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        for lane in self._lanes:
            lane.frame_bell.clear()
        self._clear_wake()
        with self._lock:
            if self._failure is not None:
                raise self._failure
            progress = self._commit_all() + self._start_all()
            self._tell_busy()
            for lane in self._lanes:
                if lane.drained and not lane.results.finished and self._may_start(lane):
                    self._finish(lane)
            if all(lane.results.finished for lane in self._lanes):
                return None
        return 0 if progress else BELL_TIMEOUT_S

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
            self._pass_over(lane)
        while self._busy < self._in_flight and not self._closed:
            ready = [lane for lane in self._lanes if lane.head.next_seq > lane.cursor and self._may_start(lane)]
            if not ready:
                return None
            lane = min(ready, key=lambda lane: lane.started_ns)
            if self._busy and not (lane.proven and self._all_proven()):
                return None
            pending = self._take(lane)
            if pending.frame is not None:
                self._busy += 1
                return lane, pending
            self._commit_ready(lane)
            self._pass_over(lane)
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

    def _may_start(self, lane: Lane) -> bool:
        """A source that waits is not read while its events find no room; none gets far ahead of its slowest frame."""
        ahead = sum(pending.frame is not None for pending in lane.pending)
        return ahead < AHEAD_MAX * self._in_flight and (not lane.head.waits or lane.results.has_room())

    def _pass_over(self, lane: Lane) -> None:
        """Frames that nobody is to look at need no worker."""
        if lane.head.waits and not lane.pace.limited:
            return
        passed = 0
        while lane.cursor < lane.head.next_seq and self._may_start(lane):
            ref = self._ref(lane, lane.cursor)
            if not lane.head.waits and lane.head.damaged(ref.seq):
                reason = "corrupt"
            elif not lane.pace.due(ref.time_s, lane.looked):
                reason = "rate"
            else:
                break
            lane.pending.append(Pending(ref, reason=reason, done=True))
            lane.cursor += 1
            passed += 1
        if passed:
            self._commit_ready(lane)

    def _take(self, lane: Lane) -> Pending:
        """The frame to look at, which is done already where it turns out that it is not to be; at least one is due."""
        chosen = lane.cursor
        if not lane.head.waits:
            newest = range(lane.head.next_seq - 1, lane.cursor - 1, -1)
            chosen = next((seq for seq in newest if not lane.head.damaged(seq)), chosen)
        looked = lane.pace.interval(self._ref(lane, chosen).time_s) if lane.pace.limited else -1
        for seq in range(lane.cursor, chosen):
            lane.pending.append(self._missed(lane, seq, looked))
        lane.cursor, lane.looked = chosen + 1, looked
        lane.started_ns = self._clock_ns()
        lane.pending.append(self._look_at(lane, chosen))
        return lane.pending[-1]

    def _missed(self, lane: Lane, seq: int, looked: int) -> Pending:
        """A frame before the one that is taken, which lies in the interval ``looked``."""
        ref = self._ref(lane, seq)
        if lane.head.damaged(seq):
            return Pending(ref, reason="corrupt", done=True)
        was_due = lane.pace.due(ref.time_s, lane.looked) and lane.pace.due(ref.time_s, looked)
        lane.looked = lane.pace.interval(ref.time_s)
        return Pending(ref, reason="overload" if was_due else "rate", done=True)

    def _look_at(self, lane: Lane, seq: int) -> Pending:
        if not lane.proven and lane.results.attempt(seq) >= ATTEMPTS_MAX:
            log.error("%s: frame %d of %s took it down repeatedly: left out", self.name, seq, lane.head.source_id)
            lane.poisoned = seq
        if seq == lane.poisoned:
            return Pending(self._ref(lane, seq), reason="failed", done=True)
        if lane.head.damaged(seq):
            return Pending(self._ref(lane, seq), reason="corrupt", done=True)
        try:
            frame = lane.reader.frame(seq)
        except FrameExpired:
            return Pending(self._ref(lane, seq), reason="expired", done=True)
        if lane.scene and not lane.head.waits and not lane.in_sight and lane.scene.still(frame.image, frame.ref.time_s):
            return Pending(frame.ref, reason="still", done=True)
        return Pending(frame.ref, frame)

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

    @staticmethod
    def _interval_before(lane: Lane) -> int:
        """The interval of the last frame that has a result, for a life that begins behind it."""
        try:
            return lane.pace.interval(lane.head.ref(lane.cursor - 1).time_s) if lane.cursor else -1
        except FrameExpired:
            return -1

    @staticmethod
    def _ref(lane: Lane, seq: int) -> FrameRef:
        """The frame's name and clocks; one that is long gone is put just before the oldest that is remembered."""
        for known in range(seq, lane.head.next_seq):
            try:
                ref = lane.head.ref(known)
            except FrameExpired:
                continue
            return msgspec.structs.replace(ref, seq=seq, time_s=ref.time_s - FORGOTTEN_S * (known - seq))
        raise AssertionError(f"no frame of {lane.head.source_id} is remembered")

    # -- finishing

    def _commit_all(self) -> int:
        return sum(self._commit_ready(lane) for lane in self._lanes)

    def _commit_ready(self, lane: Lane) -> int:
        """Commits, in order, what has come back; returns how many results."""
        count = self._take_changes(lane)
        while lane.pending and lane.pending[0].done:
            pending = lane.pending.popleft()
            if pending.error is not None:
                raise pending.error
            if pending.frame is not None:
                lane.proven = True
            self._commit(lane, pending.ref, pending.detections, pending.reason)
            if pending.begun_ns:
                lane.results.note_start(pending.ref, pending.begun_ns)
            count += 1 + self._take_changes(lane)
        if count:
            lane.result_bell.ring()
        return count

    def _take_changes(self, lane: Lane) -> int:
        """Tells the analytics that the source was lost or is live, each once, between the frames where it happened."""
        first = number = lane.results.changes_taken
        while number < lane.head.changes.count:
            status = lane.head.changes.get(number)
            if status is not None and status.seq > lane.results.published:
                break
            number += 1
            events: list[Event] = []
            if status is not None and status.state in ("live", "stalled", "backing_off"):
                state = "live" if status.state == "live" else "lost"
                events = lane.analytics.source_changed(state, status.reason, status.wall_ns, status.time_s)
            lane.results.commit_change(number, events, lane.analytics.snapshot())
            if events:
                lane.event_bell.ring()
        return number - first

    def _commit(self, lane: Lane, ref: FrameRef, detections: Detections | None, reason: str | None) -> None:
        layout, _ = lane.head.layout(ref.generation)
        result, events = lane.analytics.update(ref, detections, reason, (layout.width, layout.height))
        if events and not lane.results.has_room(len(events)):
            lane.results.count_lost_events(len(events))
            events = []
        masked = sum(track.detected and track.class_id in self._mask_ids for track in result.tracks)
        unmasked = sum(track.detected for track in result.tracks) - masked
        lane.results.commit(result, events, lane.analytics.snapshot(), (masked, unmasked))
        lane.results.note_latency(result, self._clock_ns())
        lane.reader.move(ref.seq + 1)
        lane.in_sight = bool(result.tracks)
        self._results += 1
        if events:
            lane.event_bell.ring()

    def _finish(self, lane: Lane) -> None:
        reason = lane.head.end_reason.partition(":")[0]
        lane.results.finish(lane.analytics.finish(reason))
        lane.result_bell.ring()
        lane.event_bell.ring()

    # -- waking

    @property
    def wakers(self) -> Sequence[Any]:
        return [self._wake_read, *(lane.frame_bell.socket for lane in self._lanes)]

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
        return {"results": self._results, "in_flight": self._busy}

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
            lane.reader.close()
