"""The events stage: every inlet into the one event log, and from there to each event sink at its own pace."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from pipeline.errors import Disconnected, FrameExpired, RuntimeFailure, StartupError
from pipeline.sinks.delivery import Delivery
from pipeline.sinks.event_log import EventLog
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import Bell, BellListener
from pipeline.transport.results import ResultLog
from pipeline.types import Event
from pipeline.ulid import ulid

BATCH = 256
LOG_RETRY_S = 1.0
"""While the log's disk is full, it is tried this often; the events wait in the outboxes, in shared memory."""
FAREWELL_S = 5.0
"""How long a sink that delivers nothing is waited for once every stream has ended."""
JOIN_S = 12.0
"""How long all sinks together may take to come back from what they are doing when everything ends."""
REMOVE_EVERY_S = 60.0
KEPT_EVENTS = 10_000
"""Of a log that ends with its run, and therefore lies in memory, the newest are kept and what a sink has not had."""
LOST = "events_lost"

log = logging.getLogger(__name__)


class Inlet(Protocol):
    """Where events come from. ``take`` stores what is there in the log and only then lets go of it."""

    def take(self, event_log: EventLog) -> int:
        """Returns how many it has moved; raises ``Disconnected`` while the log has no room."""

    @property
    def finished(self) -> bool:
        """Nothing will come any more; asked before the last ``take``."""

    @property
    def waker(self) -> Any:
        """A socket that is readable when something may have come, or None."""


class OutboxInlet:
    """One source's outbox in shared memory and the bell beside it.

    The outbox is the queue in which events wait while the log has no room. What did not fit in there any more is
    counted, and the log gets a record of the count before it gets what comes after.
    """

    def __init__(self, source: str, results: ResultLog, bell: BellListener) -> None:
        self._source = source
        self._results = results
        self._bell = bell
        self._known: tuple[int, int] | None = None

    def take(self, event_log: EventLog) -> int:
        self._bell.clear()
        if self._known is None:
            self._known = event_log.outbox(self._source)
            self._results.events_taken = self._known[0]
        position, known_lost = self._known
        last = min(self._results.events_published, position + BATCH)
        events = [event for number in range(position, last) if (event := self._event(number)) is not None]
        lost = self._results.events_lost
        if lost > known_lost:
            events.insert(0, loss_record(self._source, lost - known_lost))
        elif last == position:
            return 0
        event_log.append(events, outbox=(self._source, last, lost))
        self._known = last, lost
        self._results.events_taken = last
        return last - position

    def _event(self, number: int) -> Event | None:
        try:
            return self._results.event(number)
        except FrameExpired:
            self._results.count_lost_events(1)
            return None

    @property
    def finished(self) -> bool:
        return self._results.finished

    @property
    def waker(self) -> Any:
        return self._bell.socket


def loss_record(source: str, lost: int) -> Event:
    """Stands in the log for so many events of ``source`` that there was no room for."""
    now_ns = time.time_ns()
    now = datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Event(
        id=ulid(now_ns, secrets.token_bytes(10)), phase="end", kind=LOST, source=source, track=None, t_start=now,
        t_end=now, stream_s=0.0, confidence=1.0, reason="no room", lost=lost,
    )  # fmt: skip


class EventsStage:
    """Numbers first, sends afterwards: what a sink has not got yet is in the log.

    retention_s: None for a log that ends with the run. bell: rung when the log has something new, for readers outside.
    """

    def __init__(
        self,
        name: str,
        inlets: Sequence[Inlet],
        deliveries: Sequence[Delivery],
        create_log: Callable[[], EventLog],
        *,
        retention_s: float | None = None,
        restarted: bool = False,
        bell: Bell | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._inlets = list(inlets)
        self._deliveries = list(deliveries)
        self._create_log = create_log
        self._retention_s = retention_s
        self._restarted = restarted
        self._bell = bell
        self._clock = clock
        self._log: EventLog | None = None
        self._log_retry_at_s = self._remove_at_s = 0.0
        self._log_failure: Disconnected | None = None
        self._left_out: set[str] = set()
        self._farewell: tuple[int, float] | None = None
        self._logged = 0

    def open(self) -> None:
        try:
            self._begin()
        except Disconnected as error:
            if not self._restarted:
                raise StartupError(str(error)) from error
            self._wait_for_room(error)

    def _begin(self) -> EventLog:
        event_log = self._create_log()
        try:
            for delivery in self._deliveries:
                delivery.open(event_log)
        except BaseException:
            event_log.close()
            raise
        self._log = event_log
        for delivery in self._deliveries:
            delivery.start()
        return event_log

    def _wait_for_room(self, error: Disconnected) -> None:
        if self._log_failure is None:
            log.error("%s; events wait until there is room", error)
        self._log_failure, self._log_retry_at_s = error, self._clock() + LOG_RETRY_S

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        """Raises ``RuntimeFailure`` at the end where not all could be logged or delivered."""
        # asked first: what is said before the end is in the outbox when the end is seen
        finished = all(inlet.finished for inlet in self._inlets)
        before = self._log.newest if self._log else 0
        moved = self._collect() if self._clock() >= self._log_retry_at_s else 0
        if self._log and self._log.newest != before:
            self._tell()
        self._check_deliveries()
        if moved:
            return 0
        if finished and self._may_leave():
            self._check_delivered()
            return None
        return BELL_TIMEOUT_S

    def _collect(self) -> int:
        """Takes what is new into the log; while that has no room, it is tried again in a while."""
        try:
            event_log = self._log or self._begin()
            moved = sum(inlet.take(event_log) for inlet in self._inlets)
            if self._clock() >= self._remove_at_s:
                more = self._remove(event_log)
                self._remove_at_s = self._clock() + (0 if more else REMOVE_EVERY_S)
        except Disconnected as error:
            self._wait_for_room(error)
            return 0
        if self._log_failure is not None:
            log.info("the event log takes events again")
            self._log_failure = None
        self._logged += moved
        return moved

    def _remove(self, event_log: EventLog) -> bool:
        if self._retention_s is not None:
            return event_log.remove(before_ns=time.time_ns() - round(self._retention_s * 1e9))
        had = min((delivery.seq for delivery in self._deliveries), default=event_log.newest)
        return event_log.remove(up_to=min(had, event_log.newest - KEPT_EVENTS))

    def _tell(self) -> None:
        for delivery in self._deliveries:
            delivery.wake()
        if self._bell is not None:
            self._bell.ring()

    def _check_deliveries(self) -> None:
        """A sink that has failed for good is no reason to send nothing to the others; a broken log ends the stage."""
        for delivery in self._deliveries:
            if delivery.failed and not isinstance(delivery.failed, RuntimeFailure):
                raise delivery.failed
            if delivery.failed and delivery.name not in self._left_out:
                self._left_out.add(delivery.name)
                log.error("sink %s is left out: %s", delivery.name, delivery.failed)

    def _may_leave(self) -> bool:
        """When all is delivered, or nothing has been for a while."""
        progress = sum(delivery.seq for delivery in self._deliveries)
        if self._farewell is None or self._farewell[0] != progress:
            self._farewell = progress, self._clock() + FAREWELL_S
        delivered = all(delivery.failed or not self._behind(delivery) for delivery in self._deliveries)
        return (delivered and self._log_failure is None) or self._clock() > self._farewell[1]

    def _behind(self, delivery: Delivery) -> int:
        """How many numbers it has still to look at."""
        return max(0, self._log.newest - delivery.seq) if self._log else 0

    def _check_delivered(self) -> None:
        if self._log_failure is not None:
            raise RuntimeFailure(f"{self._log_failure}; the last events could not be logged")
        for delivery in self._deliveries:
            if delivery.failed:
                raise delivery.failed
            left = self._behind(delivery)
            if left and self._retention_s is None:
                raise RuntimeFailure(f"sink {delivery.name}: {left} events could not be delivered")
            if left:
                log.warning("sink %s: %d events could not be delivered yet; the next run does it", delivery.name, left)

    @property
    def wakers(self) -> Sequence[Any]:
        return [inlet.waker for inlet in self._inlets if inlet.waker is not None]

    @property
    def counters(self) -> dict[str, float]:
        figures: dict[str, float] = {"logged": self._logged, "waiting_for_room": float(self._log_failure is not None)}
        for delivery in self._deliveries:
            figures[f"{delivery.name}.sent"] = delivery.sent
            figures[f"{delivery.name}.behind"] = self._behind(delivery)
            figures[f"{delivery.name}.retries"] = delivery.retries
        return figures

    def close(self) -> None:
        for delivery in self._deliveries:
            delivery.end()
        give_up_s = time.monotonic() + JOIN_S
        for delivery in self._deliveries:
            delivery.close(give_up_s - time.monotonic())
        if self._log is not None:
            self._log.close()
            self._log = None
