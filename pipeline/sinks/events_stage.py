"""The events stage: every source's outbox into the one event log, and from there to each event sink at its own pace."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import Disconnected, FrameExpired, RuntimeFailure
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.sink import EventSink
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import BellListener
from pipeline.transport.results import ResultLog
from pipeline.types import Event

BATCH = 256
RETRY_S = 1.0
FAREWELL_S = 5.0
"""How long a sink that is not connected is waited for once every stream has ended."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Inlet:
    """One source's outbox and the bell beside it."""

    results: ResultLog
    bell: BellListener


@dataclass(slots=True)
class Outlet:
    """One event sink, the sources that it is for, and how far it has come in the log.

    failed: why nothing is sent there any more.
    """

    name: str
    sink: EventSink
    sources: frozenset[str]
    cursor: int = 0
    retry_at_s: float = 0.0
    failed: RuntimeFailure | None = None


class EventsStage:
    """Numbers first, sends afterwards: what a sink has not got yet is in the log."""

    def __init__(
        self,
        name: str,
        inlets: Mapping[str, Inlet],
        outlets: Sequence[Outlet],
        create_log: Callable[[], EventLog],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._inlets = dict(inlets)
        self._outlets = list(outlets)
        self._create_log = create_log
        self._clock = clock
        self._log: EventLog | None = None
        self._farewell_s: float | None = None
        self._sent = 0
        self._lost = 0

    def open(self) -> None:
        self._log = self._create_log()
        for outlet in self._outlets:
            delivered = outlet.sink.open(self._log.log_id)
            outlet.cursor = self._log.cursor(outlet.name) if delivered is None else delivered

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        """Raises ``RuntimeFailure`` at the end, or with the last sink that failed, where not all could be delivered."""
        assert self._log is not None
        for inlet in self._inlets.values():
            inlet.bell.clear()
        # asked first: what is said before the end is in the outbox when the end is seen
        finished = all(inlet.results.finished for inlet in self._inlets.values())
        moved = sum(self._collect(self._log, source, inlet.results) for source, inlet in self._inlets.items())
        delivered = [self._deliver(self._log, outlet) for outlet in self._outlets]
        if moved:
            return 0
        if finished and self._may_leave(all(delivered)):
            self._check_delivered(self._log)
            return None
        return BELL_TIMEOUT_S

    def _collect(self, event_log: EventLog, source: str, results: ResultLog) -> int:
        """Takes what is new in one outbox into the log; the log remembers how far, in the same transaction."""
        first, published = event_log.position(source), results.events_published
        results.events_taken = first
        if first >= published:
            return 0
        last = min(published, first + BATCH)
        events: list[Event] = []
        for number in range(first, last):
            try:
                events.append(results.event(number))
            except FrameExpired:
                results.count_lost_events(1)
                self._lost += 1
        event_log.append(source, events, position=last)
        results.events_taken = last
        return last - first

    def _deliver(self, event_log: EventLog, outlet: Outlet) -> bool:
        """Sends what the sink has not had; returns whether it has everything now."""
        if outlet.failed:
            return True
        if self._clock() < outlet.retry_at_s:
            return False
        while True:
            events = event_log.after(outlet.cursor, BATCH)
            if not events:
                return True
            for event in events:
                try:
                    if event["source"] in outlet.sources:
                        outlet.sink.write(event)
                        self._sent += 1
                except Disconnected as error:
                    log.warning("sink %s: %s; trying again in %g s", outlet.name, error, RETRY_S)
                    outlet.retry_at_s = self._clock() + RETRY_S
                    event_log.set_cursor(outlet.name, outlet.cursor)
                    return False
                except RuntimeFailure as error:
                    self._leave_out(outlet, error)
                    return True
                outlet.cursor = event["seq"]
            event_log.set_cursor(outlet.name, outlet.cursor)

    def _leave_out(self, outlet: Outlet, error: RuntimeFailure) -> None:
        """A full disk under one sink is no reason to send nothing to the others."""
        outlet.failed = error
        if all(other.failed for other in self._outlets):
            raise error
        log.warning("%s; the other sinks go on", error)

    def _check_delivered(self, event_log: EventLog) -> None:
        for outlet in self._outlets:
            if outlet.failed:
                raise outlet.failed
            left = [event for event in event_log.after(outlet.cursor, BATCH) if event["source"] in outlet.sources]
            if left:
                count = f"at least {BATCH}" if len(left) == BATCH else str(len(left))
                raise RuntimeFailure(f"sink {outlet.name}: {count} events could not be delivered")

    def _may_leave(self, delivered: bool) -> bool:
        if self._farewell_s is None:
            self._farewell_s = self._clock() + FAREWELL_S
        return delivered or self._clock() > self._farewell_s

    @property
    def wakers(self) -> Sequence[Any]:
        return [inlet.bell.socket for inlet in self._inlets.values()]

    @property
    def counters(self) -> dict[str, float]:
        return {"sent": self._sent, "lost": self._lost}

    def close(self) -> None:
        for outlet in self._outlets:
            outlet.sink.close()
        if self._log is not None:
            self._log.close()
            self._log = None
