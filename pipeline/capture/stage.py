"""The capture stage of a file or a test pattern: its pictures into its ring."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.areas import Curtain
from pipeline.capture.source import Source
from pipeline.errors import SourceBroken
from pipeline.transport.channel import Bell
from pipeline.transport.head import Head
from pipeline.transport.ring import Writer
from pipeline.types import Picture

ROOM_WAIT_S = 0.003
"""How long to let a full ring be before looking again; its slots hold several times as much work."""
HELD_WAIT_S = 0.005
PUBLISHED_AT_LEAST_S = 1e-4

log = logging.getLogger(__name__)


class CaptureStage:
    """Reads, holds back what must wait (for its time or for room), copies once, hides what is private, publishes.

    A restarted capture goes on with the frame behind the last published one, on the same clock; a source that has
    changed or come back begins at its own beginning.
    """

    wakers: Sequence[Any] = ()

    def __init__(
        self,
        name: str,
        source: Source,
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
        self._writer: Writer | None = None
        self._held: Picture | None = None
        self._stopping = False
        self._frames = 0
        self._offset_s: float | None = None
        self._started_ns: int | None = None

    def open(self) -> None:
        if self._head.end_seq is not None:
            return
        self._source.open()
        self._writer = Writer(self._head, lossless=self._source.pacing == "lossless")
        self._head.expected_frames = self._source.expected_frames
        self._start_wall_ns = self._head.start_wall_ns(self._source.start_wall_ns or self._wall_clock_ns())
        published = self._head.next_seq - self._head.first_seq_here
        if published:
            log.info("%s goes on at frame %d", self.name, self._head.next_seq)
            # a source that has changed has been put behind the one before, and has times of its own
            last_s = None if self._head.first_seq_here else self._writer.last_time_s()
            self._source.seek(published, last_s)

    def stop(self) -> None:
        self._stopping = True

    def step(self) -> float | None:
        if self._head.end_seq is not None or self._writer is None:
            return None
        if self._stopping:
            self._end("stopped")
            return None
        if self._head.held:
            return HELD_WAIT_S
        if self._held is None:
            try:
                self._held = self._source.read()
            except SourceBroken as error:
                self._end(f"broken: {error}")
                raise
            if self._held is None:
                self._end("end_of_stream")
                return None
        wait_s = self._wait_s(self._held)
        if wait_s > 0:
            return wait_s
        self._publish(self._writer, self._held)
        self._held = None
        return 0

    def _end(self, reason: str) -> None:
        self._source.close()  # its last packets come before the end is said
        self._head.end(reason)
        self._bell.ring()

    def _wait_s(self, picture: Picture) -> float:
        """How long this picture must be held back."""
        assert self._writer is not None
        if self._source.pacing == "lossless":
            return 0 if self._writer.has_room(picture.image.layout) else ROOM_WAIT_S
        if self._started_ns is None:
            self._started_ns = self._clock_ns() - round(picture.time_s * 1e9)
        return picture.time_s - (self._clock_ns() - self._started_ns) / 1e9

    def _publish(self, writer: Writer, picture: Picture) -> None:
        slot = writer.claim(picture.image.layout)
        picture.image.copy_to(slot)
        if self._curtain is not None:
            self._curtain.draw(slot)
        time_s = self._time_s(writer, picture)
        captured_ns = self._clock_ns()
        lossless = self._source.pacing == "lossless"
        wall_ns = self._start_wall_ns + round(time_s * 1e9) if lossless else self._wall_clock_ns()
        writer.publish(time_s=time_s, captured_ns=captured_ns, wall_ns=wall_ns, corrupt=picture.corrupt)
        self._frames += 1
        if not self._head.busy:
            self._bell.ring()

    def _time_s(self, writer: Writer, picture: Picture) -> float:
        """The picture's place on the ring's clock; a source that began anew is put behind what was published."""
        if self._offset_s is None:
            self._offset_s = 0.0
            last_s = writer.last_time_s()
            if last_s is not None and picture.time_s <= last_s:
                gone_s = (self._clock_ns() - self._head.ref(self._head.next_seq - 1).captured_ns) / 1e9
                self._offset_s = last_s - picture.time_s + max(gone_s, PUBLISHED_AT_LEAST_S)
        return picture.time_s + self._offset_s

    @property
    def counters(self) -> dict[str, float]:
        return {"frames": self._frames}

    def close(self) -> None:
        self._held = None
        self._source.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
