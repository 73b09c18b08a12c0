"""Events from the log to one sink, at the sink's own pace: in order, at least once, again and again until it works."""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable
from math import ldexp
from pathlib import Path

from pipeline.errors import Disconnected, PipelineError
from pipeline.sinks.cursor import Cursor
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.sink import EventSink

BATCH = 64
BEAT_S = 1.0
"""A sink that has nothing to do is asked for a sign of life this often."""
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 30.0
"""The back-off doubles from the one to the other; the wait is a random part of it, from a half to all."""

log = logging.getLogger(__name__)


class Delivery:
    """One sink behind the log. ``step`` does what is ready; ``start`` does so in a thread of its own until ``close``.

    sources: whose events the sink gets. failed: why nothing is sent there any more.
    """

    def __init__(
        self,
        name: str,
        sink: EventSink,
        sources: frozenset[str],
        cursor_path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.sent = self.retries = 0
        self.failed: PipelineError | None = None
        self.seq = 0
        self._sink = sink
        self._sources = sources
        self._cursor_path = cursor_path
        self._clock = clock
        self._chance = chance
        self._attempt = 0
        self._retry_at_s = 0.0
        self._cursor: Cursor | None = None
        self._reader: EventReader | None = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._ending = False

    def open(self, event_log: EventLog) -> None:
        """Opens the sink and finds out where it goes on: where it says, else where it was, else with this run.

        May be called again after it has raised.
        """
        self._cursor = self._cursor or Cursor(self._cursor_path)
        self._log_id, self._log_path = event_log.log_id, event_log.path
        told, remembered = self._sink.open(event_log.log_id), self._cursor.read(event_log.log_id)
        if told:  # 0: like None
            position = told
        elif remembered is not None:
            position = remembered
        else:
            position = event_log.run_after
        self.seq = min(position, event_log.newest)  # a power failure may have taken what the sink has had
        self._cursor.write(self._log_id, self.seq)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There are new events."""
        self._wake.set()

    def _run(self) -> None:
        while not self._ending:
            self._wake.clear()
            wait_s = self.step()
            if self.failed:
                break
            self._wake.wait(wait_s)
        if self._reader is not None:
            self._reader.close()

    def step(self) -> float:
        """Delivers what there is, for a while. Returns for how long there is nothing to do unless new events come."""
        left_s = self._retry_at_s - self._clock()
        if left_s > 0:
            return left_s
        try:
            wait_s = self._go_on()
        except Disconnected as error:
            return self._back_off(str(error))
        except PipelineError as error:  # raised by the stage, in its own thread
            self.failed = error
            return 0.0
        except Exception as error:  # noqa: BLE001  the other sinks go on; the text may hold a secret
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            return self._back_off(f"an error that nobody expected ({type(error).__name__} in {where})")
        if self._attempt:
            log.info("sink %s: delivers again, from event %d on", self.name, self.seq)
        self._attempt, self._retry_at_s = 0, 0.0
        return wait_s

    def _go_on(self) -> float:
        if self._reader is None:
            self._reader = EventReader(self._log_path)
        events = self._reader.after(self.seq, BATCH)
        if events and events[0]["seq"] > self.seq + 1:
            log.warning(
                "sink %s: events %d to %d had to be removed before it took them",
                self.name,
                self.seq + 1,
                events[0]["seq"] - 1,
            )
        for event in events:
            if self._ending:
                break
            if event["source"] in self._sources:
                self._sink.write(event)
                self.sent += 1
            self._move(event["seq"])
        self._sink.beat(self.seq)
        return 0.0 if len(events) == BATCH else BEAT_S

    def _move(self, seq: int) -> None:
        assert self._cursor is not None
        self._cursor.write(self._log_id, seq)
        self.seq = seq

    def _back_off(self, reason: str) -> float:
        self.retries += 1
        back_off_s = min(ldexp(RETRY_FIRST_S, self._attempt), RETRY_MAX_S)
        self._attempt = min(self._attempt + 1, 16)
        wait_s = back_off_s * (0.5 + self._chance() / 2)
        self._retry_at_s = self._clock() + wait_s
        log.warning("sink %s: %s; trying again in %.1f s", self.name, reason, wait_s)
        return wait_s

    def end(self) -> None:
        """Nothing more is begun."""
        self._ending = True
        self.wake()

    def close(self, patience_s: float = 0.0) -> None:
        """Closes the sink when its thread has ended; one that does not within that time is left alone."""
        self.end()
        if self._thread is not None:
            self._thread.join(max(patience_s, 0.1))
            if self._thread.is_alive():
                log.warning("sink %s: does not come to its end", self.name)
                return
        elif self._reader is not None:
            self._reader.close()
        self._sink.close()
        if self._cursor is not None:
            self._cursor.close()
