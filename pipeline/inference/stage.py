"""The inference stage: frames of several sources through one detector, results in order.

Several frames are in flight at a time, each in its own thread (the runtimes release the interpreter's lock); what comes
back is put in order again before tracking. Every frame gets a Result. A source that waits for us has every frame
looked at; of any other, a free worker takes the newest frame there is, and those before it are carried by the tracker.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pipeline.errors import FrameExpired
from pipeline.inference.detector import Detector
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import Bell, BellListener
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Frame, Reader
from pipeline.types import Detections, Event, FrameRef, Result

ATTEMPTS_MAX = 2
"""A frame that took the process down this often is not looked at again."""

FORGOTTEN_S = 1e-6
"""Apart in time, for frames whose own times are forgotten."""

log = logging.getLogger(__name__)


class Analytics(Protocol):
    """Tracker and rules of one source."""

    def update(
        self, frame: FrameRef, detections: Detections | None, reason: str | None, size_wh: tuple[int, int]
    ) -> tuple[Result, list[Event]]: ...

    def finish(self, reason: str) -> list[Event]: ...

    def snapshot(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


@dataclass(slots=True)
class _Pending:
    """A frame on its way; ``outcome`` is missing where it is not looked at, for ``reason``."""

    ref: FrameRef
    outcome: Future[Detections | None] | None
    reason: str | None = None


@dataclass
class Lane:
    """What inference holds of one source."""

    head: Head
    reader: Reader
    results: ResultLog
    analytics: Analytics
    frame_bell: BellListener
    result_bell: Bell
    event_bell: Bell
    pending: deque[_Pending] = field(default_factory=deque)
    cursor: int = 0
    started_ns: int = 0
    poisoned: int = -1
    proven: bool = False
    """A frame of it has come back in this life of the process."""

    @property
    def drained(self) -> bool:
        return self.head.end_seq == self.cursor and not self.pending


class InferenceStage:
    """Takes turns between its sources, the longest-waiting first."""

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        create_detector: Callable[[], Detector],
        *,
        in_flight: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.name = name
        self._lanes = list(lanes)
        self._create_detector = create_detector
        self._in_flight = in_flight
        self._clock_ns = clock_ns
        self._busy = 0
        self._results = 0
        self._detector: Detector | None = None
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

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        for lane in self._lanes:
            lane.frame_bell.clear()
        self._clear_wake()
        committed = sum(self._commit_ready(lane) for lane in self._lanes)
        started = self._start_all()
        for lane in self._lanes:
            if lane.drained and not lane.results.finished and self._may_start(lane):
                self._finish(lane)
        if all(lane.results.finished for lane in self._lanes):
            return None
        return 0 if committed or started else BELL_TIMEOUT_S

    # -- starting

    def _start_all(self) -> int:
        """Gives work to every free worker; returns how many frames were taken up."""
        taken = 0
        while self._busy < self._in_flight:
            ready = [lane for lane in self._lanes if lane.head.next_seq > lane.cursor and self._may_start(lane)]
            if not ready:
                break
            lane = min(ready, key=lambda lane: lane.started_ns)
            if self._busy and not (lane.proven and self._all_proven()):
                break
            taken += self._start(lane)
        return taken

    def _all_proven(self) -> bool:
        """A source's first frame is looked at alone, so that one which takes the process down is known by name."""
        return all(lane.proven or not lane.pending for lane in self._lanes)

    @staticmethod
    def _may_start(lane: Lane) -> bool:
        """A source that waits is not read while its events find no room."""
        return not lane.head.waits or lane.results.has_room()

    def _start(self, lane: Lane) -> int:
        first = lane.cursor
        chosen = first if lane.head.waits else lane.head.next_seq - 1
        for seq in range(first, chosen):
            lane.pending.append(_Pending(self._ref(lane, seq), None, "overload"))
        lane.cursor = chosen + 1
        lane.started_ns = self._clock_ns()
        lane.pending.append(self._look_at(lane, chosen))
        return lane.cursor - first

    def _look_at(self, lane: Lane, seq: int) -> _Pending:
        if not lane.proven and lane.results.attempt(seq) >= ATTEMPTS_MAX:
            log.error("%s: frame %d of %s took it down repeatedly: left out", self.name, seq, lane.head.source_id)
            lane.poisoned = seq
        if seq == lane.poisoned:
            return _Pending(self._ref(lane, seq), None, "failed")
        try:
            frame = lane.reader.frame(seq)
        except FrameExpired:
            return _Pending(self._ref(lane, seq), None, "expired")
        future = self._pool.submit(self._detect, lane.reader, frame)
        future.add_done_callback(lambda _: self._wake())
        self._busy += 1
        return _Pending(frame.ref, future)

    def _detect(self, reader: Reader, frame: Frame) -> Detections | None:
        """In a worker thread: None when the pixels were overwritten meanwhile."""
        assert self._detector is not None
        detections = self._detector.detect_i420(frame.image)
        return detections if reader.valid(frame) else None

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

    def _commit_ready(self, lane: Lane) -> int:
        """Commits, in order, what has come back; returns how many results."""
        count = 0
        while lane.pending and (lane.pending[0].outcome is None or lane.pending[0].outcome.done()):
            pending = lane.pending.popleft()
            detections, reason = None, pending.reason
            if pending.outcome is not None:
                self._busy -= 1
                detections = pending.outcome.result()
                lane.proven = True
                reason = "expired" if detections is None else None
            self._commit(lane, pending.ref, detections, reason)
            count += 1
        if count:
            lane.result_bell.ring()
        return count

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
