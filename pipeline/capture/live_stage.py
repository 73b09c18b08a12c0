"""The capture stage of a live source: connected, watched, connected again, for ever.

A thread of its own opens, reads, copies and publishes; the stage's own thread only watches it. So whatever FFmpeg waits
for, the heart beats, silence is noticed in time, and a stop is obeyed at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.areas import Curtain
from pipeline.capture.connection import Connection
from pipeline.capture.source import LiveSource, SourceLost
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import Bell
from pipeline.transport.head import Head
from pipeline.transport.ring import Writer
from pipeline.types import Picture, SourceReason, SourceState

APART_S = 1e-4
"""Pictures that came at once, or that a sender's clock puts before others, are so far apart."""
HELD_WAIT_S = 0.005
LEAVING_S = 0.5
"""So long a stop waits for the thread; one that FFmpeg keeps longer ends with the process."""
STUCK_S = 60.0
"""So long behind its deadline, FFmpeg does not come back any more: only another process helps."""

log = logging.getLogger(__name__)


class LiveCaptureStage:
    """Publishes what a live source gives, on one clock across all connections, and says how the source stands."""

    wakers: Sequence[Any] = ()

    def __init__(
        self,
        name: str,
        source: LiveSource,
        head: Head,
        bell: Bell,
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        curtain: Curtain | None = None,
    ) -> None:
        self.name = name
        self._source = source
        self._head = head
        self._bell = bell
        self._clock_ns = clock_ns
        self._wall_clock_ns = wall_clock_ns
        self._curtain = curtain
        self._connection = Connection(
            self._tell, self._clock_s, stall_s=source.stall_s, wait_max_s=source.reconnect_max_s
        )
        self._lock = threading.Lock()  # of the head, the bell and the connection
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._writer: Writer | None = None
        self._last_s = float("-inf")
        self._frames = 0
        self._began_s = float("inf")
        self._waiting = False  # between two attempts
        self._lost_ns = 0
        self._complained: str | None = None
        self._damage_told = False

    def open(self) -> None:
        if self._head.end_seq is not None:
            return
        self._writer = Writer(self._head, lossless=False)
        self._origin_ns = self._head.origin_ns(self._clock_ns())
        self._undecoded_before = self._head.undecoded
        self._head.start_wall_ns(self._wall_clock_ns())
        last_s = self._writer.last_time_s()
        self._last_s = self._last_s if last_s is None else last_s
        self._worker = threading.Thread(target=self._work, args=(self._writer,), name="capture", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        with self._lock:
            self._stop.set()

    def step(self) -> float | None:
        if self._failure is not None:
            raise self._failure
        if self._worker is None:
            return None
        if self._stop.is_set():
            self._worker.join(LEAVING_S)  # it may hold packets of frames that are published
        with self._lock:
            if self._stop.is_set() or self._head.end_seq is not None:
                self._head.end("stopped")
                self._connection.ended()
                return None
            self._connection.heard(self._source.heard_s)
            self._connection.check()
            self._head.undecoded = self._undecoded_before + self._source.undecoded
            waiting = self._waiting
        silent_s = self._clock_s() - max(self._source.heard_s, self._began_s)
        if not waiting and silent_s > self._source.stall_s + STUCK_S:
            raise RuntimeError(f"FFmpeg has not come back for {silent_s:.0f} s")
        return BELL_TIMEOUT_S

    # -- in the thread

    def _work(self, writer: Writer) -> None:
        try:
            while self._head.held and not self._stop.is_set():
                self._stop.wait(HELD_WAIT_S)
            while not self._stop.is_set():
                self._connect_and_read(writer)
        except BaseException as error:  # noqa: BLE001  raised by ``step``, in the stage's own thread
            self._failure = error
        finally:
            self._source.close()

    def _connect_and_read(self, writer: Writer) -> None:
        with self._lock:
            if self._stop.is_set():
                return
            self._began_s = self._clock_s()
            self._waiting = False
            self._connection.connecting()
        try:
            self._source.open()
            while not self._stop.is_set():
                self._publish(writer, self._source.read())
            return
        except SourceLost as error:
            lost = error
        self._source.close()
        with self._lock:
            if self._stop.is_set():
                return
            again_s = self._clock_s() + self._connection.lost(lost.reason)
            self._waiting = True
        if lost.reason != self._complained:
            self._complained = lost.reason
            log.warning("%s; it is tried again until it comes back", lost)
        while not self._stop.is_set() and self._clock_s() < again_s and not self._source.renewed:
            self._stop.wait(min(BELL_TIMEOUT_S, max(0.0, again_s - self._clock_s())))

    def _publish(self, writer: Writer, picture: Picture | None) -> None:
        assert picture is not None, "a live source has no good end"
        time_s = max(picture.time_s - self._origin_ns / 1e9, self._last_s + APART_S)
        image = writer.claim(picture.image.layout)
        picture.image.copy_to(image)
        if self._curtain is not None:
            self._curtain.draw(image)
        with self._lock:
            if self._head.end_seq is not None:
                return
            # before the frame, so that what is said of the source stands before its first picture
            self._connection.picture(damaged=picture.corrupt)
            writer.publish(
                time_s=time_s, captured_ns=self._clock_ns(), wall_ns=self._wall_clock_ns(), corrupt=picture.corrupt
            )
            if not self._head.busy:
                self._bell.ring()
        self._last_s = time_s
        self._frames += 1

    # -- what is said of the source; under the lock

    def _tell(self, state: SourceState, reason: SourceReason) -> None:
        status = self._head.status
        was = status.state if status else None
        if was == "live" and state not in ("live", "ended"):
            self._lost_ns = self._clock_ns()
        if state == "live" and was != "live":
            self._complained = None
            log.info("%s is live%s", self._head.source_id, self._outage())
        if reason == "packet_loss" and not self._damage_told:
            self._damage_told = True
            advice = self._source.damage_advice
            log.warning("%s: pictures arrive damaged%s", self._head.source_id, advice and f"; {advice}")
        self._head.tell(state, reason, now_ns=self._clock_ns(), wall_ns=self._wall_clock_ns())
        self._bell.ring()

    def _outage(self) -> str:
        return f" again after {(self._clock_ns() - self._lost_ns) / 1e9:.1f} s" if self._lost_ns else ""

    def _clock_s(self) -> float:
        return self._clock_ns() / 1e9

    @property
    def counters(self) -> dict[str, float]:
        return {"frames": self._frames, "undecoded": self._source.undecoded}

    def close(self) -> None:
        self._stop.set()
        if self._worker is not None:
            self._worker.join(LEAVING_S)
            self._worker = None
        if self._writer is not None:
            self._writer.close()
            self._writer = None
