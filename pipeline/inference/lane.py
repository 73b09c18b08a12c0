"""One source in inference: its ring, its results, its analytics, and the frames that are on their way.

Every frame gets a Result. A source that waits for us has every frame that is due (``schedule``) looked at; of any
other, the newest that there is when a worker is free. The tracker carries the rest.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pipeline.errors import FrameExpired
from pipeline.inference.schedule import Pace, StillScene
from pipeline.transport.channel import Bell
from pipeline.transport.head import FRAMES, Head
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

    def source_changed(self, state: str, reason: str, wall_ns: int, time_s: float) -> list[Event]:
        """The source is ``live``, or ``lost`` for ``reason``; may say again what is known."""

    def finish(self, reason: str, wall_ns: int = 0, time_s: float = 0.0) -> list[Event]:
        """The stream has ended; wall_ns, time_s: when, on both clocks, of a source that may be lost."""

    def snapshot(self) -> Any: ...

    def restore(self, state: Any) -> None:
        """Takes up what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""


@dataclass(slots=True)
class Pending:
    """A frame on its way to its turn. frame: its pixels, where it is looked at; ``reason`` says why it is not.

    begun_ns: monotonic clock when a worker began to look. detections: None also where the pixels were overwritten
    meanwhile. error: what looking at it raised.
    """

    ref: FrameRef
    frame: Frame | None = None
    reason: str | None = None
    done: bool = False
    begun_ns: int = 0
    detections: Detections | None = None
    error: BaseException | None = None


@dataclass
class Lane:
    """What inference holds of one source, and what becomes of its frames: taken, put in order again, committed.

    pace, scene: which of them are looked at. leave: called at the close. ahead_max: how many may be on their way.
    looked: the interval of the pace in which the last look was. in_sight: somebody was, in the newest result.
    proven: a frame of it has come back in this life of the process.
    """

    head: Head
    reader: Reader
    results: ResultLog
    analytics: Analytics
    result_bell: Bell
    event_bell: Bell
    pace: Pace = field(default_factory=Pace)
    scene: StillScene | None = None
    leave: Callable[[], None] = lambda: None
    clock_ns: Callable[[], int] = time.monotonic_ns
    ahead_max: int = 1
    mask_ids: frozenset[int] = frozenset()
    pending: deque[Pending] = field(default_factory=deque)
    cursor: int = 0
    started_ns: int = 0
    poisoned: int = -1
    looked: int = -1
    in_sight: bool = False
    proven: bool = False

    @property
    def source_id(self) -> str:
        return self.head.source_id

    def open(self) -> None:
        """Goes on behind the newest result; a source that had ended and goes on begins anew there."""
        if self.over:
            self.results.reopen(self._ended)
        state = self.results.resume()
        if state is not None:
            self._restore(state)
            log.info("%s: goes on at frame %d", self.source_id, self.results.published)
        self.cursor = self.results.published
        self.reader.move(self.cursor)
        self.looked = self._interval_before()
        self.head.busy = False

    def _ended(self, state: Any) -> Any:
        """The analytics' state behind the end, whose events have been told."""
        if state is not None:
            self._restore(state)
        self.analytics.finish("")
        return self.analytics.snapshot()

    def _restore(self, state: Any) -> None:
        """A state that does not fit, as of other rules, is left: it would take all sources down again and again."""
        empty = self.analytics.snapshot()
        try:
            self.analytics.restore(state)
        except ValueError as error:
            log.warning("%s: tracks begin anew, and open episodes get no end: %s", self.source_id, error)
            self.analytics.restore(empty)

    @property
    def over(self) -> bool:
        """All has been said of what came until the source ended, and the source goes on since."""
        return self.results.finished and self.head.end_seq is None

    @property
    def drained(self) -> bool:
        return self.head.end_seq == self.cursor and not self.pending

    @property
    def ready(self) -> bool:
        """Whether there is a frame to look at."""
        return self._has_next and self._passing() is None

    @property
    def _has_next(self) -> bool:
        return self.head.next_seq > self.cursor and self.may_start

    @property
    def may_start(self) -> bool:
        """A source that waits is not read while its events find no room; none gets far ahead of its slowest frame."""
        ahead = sum(pending.frame is not None for pending in self.pending)
        return ahead < self.ahead_max and (not self.head.waits or self.results.has_room())

    # -- taking

    def pass_over(self) -> None:
        """Frames that nobody is to look at need no worker."""
        passed = False
        while self._has_next and (reason := self._passing()) is not None:
            self.pending.append(Pending(self._ref(self.cursor), reason=reason, done=True))
            self.cursor += 1
            passed = True
        if passed:
            self.commit_ready()

    def _passing(self) -> str | None:
        """Why the next frame is not to be looked at, if it is not."""
        if not self.head.waits and self.head.damaged(self.cursor):
            return "corrupt"
        if self.pace.limited and not self.pace.due(self._ref(self.cursor).time_s, self.looked):
            return "rate"
        return None

    def take(self) -> Pending:
        """The frame to look at, which is done already where it turns out that it is not to be; at least one is due."""
        chosen = self.cursor
        if not self.head.waits:
            newest = range(self.head.next_seq - 1, self.cursor - 1, -1)
            chosen = next((seq for seq in newest if not self.head.damaged(seq)), chosen)
        looked = self.pace.interval(self._ref(chosen).time_s) if self.pace.limited else -1
        for seq in range(self.cursor, chosen):
            self.pending.append(self._missed(seq, looked))
        self.cursor, self.looked = chosen + 1, looked
        self.started_ns = self.clock_ns()
        self.pending.append(self._look_at(chosen))
        return self.pending[-1]

    def _missed(self, seq: int, looked: int) -> Pending:
        """A frame before the one that is taken, which lies in the interval ``looked``."""
        ref = self._ref(seq)
        if self.head.damaged(seq):
            return Pending(ref, reason="corrupt", done=True)
        was_due = self.pace.due(ref.time_s, self.looked) and self.pace.due(ref.time_s, looked)
        self.looked = self.pace.interval(ref.time_s)
        return Pending(ref, reason="overload" if was_due else "rate", done=True)

    def _look_at(self, seq: int) -> Pending:
        if not self.proven and self.results.attempt(seq) >= ATTEMPTS_MAX:
            log.error("%s: frame %d took inference down repeatedly: left out", self.source_id, seq)
            self.poisoned = seq
        if seq == self.poisoned:
            return Pending(self._ref(seq), reason="failed", done=True)
        if self.head.damaged(seq):
            return Pending(self._ref(seq), reason="corrupt", done=True)
        try:
            frame = self.reader.frame(seq)
        except FrameExpired:
            return Pending(self._ref(seq), reason="expired", done=True)
        if self.scene and not self.head.waits and not self.in_sight and self.scene.still(frame.image, frame.ref.time_s):
            return Pending(frame.ref, reason="still", done=True)
        return Pending(frame.ref, frame)

    def _interval_before(self) -> int:
        """The interval of the last frame that has a result."""
        try:
            return self.pace.interval(self.head.ref(self.cursor - 1).time_s) if self.cursor else -1
        except FrameExpired:
            return -1

    def _ref(self, seq: int) -> FrameRef:
        """The frame's name and clocks; one that is long gone is put just before the oldest that is remembered."""
        for known in range(max(seq, self.head.next_seq - FRAMES + 1), self.head.next_seq):
            try:
                ref = self.head.ref(known)
            except FrameExpired:
                continue
            return msgspec.structs.replace(ref, seq=seq, time_s=ref.time_s - FORGOTTEN_S * (known - seq))
        raise AssertionError(f"no frame of {self.source_id} is remembered")

    # -- committing

    def commit_ready(self) -> int:
        """Commits, in order, what has come back; returns how much. Raises what looking at a frame raised."""
        count = self._take_changes()
        while self.pending and self.pending[0].done:
            pending = self.pending.popleft()
            if pending.error is not None:
                raise pending.error
            if pending.frame is not None:
                self.proven = True
            self._commit(pending)
            count += 1 + self._take_changes()
        if count:
            self.result_bell.ring()
        return count

    def _take_changes(self) -> int:
        """Tells the analytics that the source was lost or is live, each once, between the frames where it happened."""
        first = number = self.results.changes_taken
        while number < self.head.changes.count:
            status = self.head.changes.get(number)
            if status is not None and status.seq > self.results.published:
                break
            number += 1
            events: list[Event] = []
            if status is not None and status.state in ("live", "stalled", "backing_off"):
                state = "live" if status.state == "live" else "lost"
                events = self.analytics.source_changed(state, status.reason, status.wall_ns, status.time_s)
            self.results.commit_change(number, events, self.analytics.snapshot())
            if events:
                self.event_bell.ring()
        return number - first

    def _commit(self, pending: Pending) -> None:
        ref = pending.ref
        layout, _ = self.head.layout(ref.generation)
        result, events = self.analytics.update(ref, pending.detections, pending.reason, (layout.width, layout.height))
        if events and not self.results.has_room(len(events)):
            self.results.count_lost_events(len(events))
            events = []
        masked = sum(track.detected and track.class_id in self.mask_ids for track in result.tracks)
        unmasked = sum(track.detected for track in result.tracks) - masked
        self.results.commit(result, events, self.analytics.snapshot(), (masked, unmasked))
        self.results.note_latency(result, self.clock_ns())
        if pending.begun_ns:
            self.results.note_start(ref, pending.begun_ns)
        self.reader.move(ref.seq + 1)
        self.in_sight = bool(result.tracks)
        if events:
            self.event_bell.ring()

    def finish(self) -> None:
        """The stream has ended, and every frame of it has its result."""
        self.results.finish(self.analytics.finish(self.head.end_reason.partition(":")[0], *self._now()))
        self.result_bell.ring()
        self.event_bell.ring()

    def _now(self) -> tuple[int, float]:
        """The wall clock and the source's own; zeros for one that has never said how it stands: it was never lost."""
        status = self.head.status
        if status is None:
            return 0, 0.0
        passed_ns = self.clock_ns() - status.since_ns
        return status.wall_ns + passed_ns, status.time_s + passed_ns / 1e9

    def close(self) -> None:
        self.reader.close()
        self.result_bell.close()
        self.event_bell.close()
        self.leave()
