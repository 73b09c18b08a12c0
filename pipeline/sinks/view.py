"""What whoever watches may see of a running site: each source's state, figures and newest annotated picture.

A view takes no part in the ring: nobody waits for it, and it takes what is newest. It works in any process and any
thread, one at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from pipeline.errors import FrameExpired
from pipeline.sinks.sink import Accepts
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog, latency_quantiles_ms
from pipeline.transport.ring import Reader
from pipeline.types import Layout, Result

if TYPE_CHECKING:  # every process reads the configuration, whose sinks are told of views; few look at pictures
    from pipeline.sinks.canvas import Canvas
    from pipeline.sinks.overlay import Overlay

SILENT_S = 3.0
"""A source that has shown no frame for so long is not live, whatever it says of itself."""


class Standing(NamedTuple):
    """How a source stands. state: ``live``, ``ended``, ``failed`` or why it is not live; reason: in words, or empty.

    age_s: of the newest frame, None before the first.
    """

    state: str
    reason: str
    age_s: float | None

    @property
    def live(self) -> bool:
        return self.state == "live"


class View:
    """One source, seen from outside."""

    def __init__(self, run_dir: Path, source_id: str, create_overlay: Callable[[Layout], Overlay]) -> None:
        self.source_id = source_id
        self.head = Head.attach(run_dir, source_id)
        self.results = ResultLog.attach(run_dir, source_id)
        self._reader = Reader(self.head, "view")  # it is not in the head's list: nobody waits for it
        self._create_overlay = create_overlay
        self._canvas: Canvas | None = None
        self._overlay: Overlay | None = None

    @property
    def newest(self) -> int:
        """The number of the newest frame with a result; -1 before the first."""
        return self.results.published - 1

    def age_ms(self, seq: int) -> float | None:
        """How long ago frame ``seq`` was captured; None where it is too long ago to know."""
        try:
            return (time.monotonic_ns() - self.head.ref(seq).captured_ns) / 1e6
        except FrameExpired:
            return None

    def standing(self) -> Standing:
        head = self.head
        newest = head.next_seq - 1
        age_ms = self.age_ms(newest) if newest >= 0 else None
        age_s = None if age_ms is None else age_ms / 1e3
        if head.end_seq is not None:
            state, _, reason = head.end_reason.partition(": ")
            return Standing("failed" if state in ("failed", "broken") else "ended", reason, age_s)
        status = head.status
        if status and status.state != "live":
            return Standing(status.state, status.reason, age_s)
        if age_s is None:
            return Standing("connecting", "", None)
        if age_s > SILENT_S:
            return Standing("stalled", "no picture comes", age_s)
        return Standing("live", status.reason if status else "", age_s)

    def latency_ms(self, before: Any = None) -> float | None:
        """Median of capture to result, of everything or since ``latency_counts`` was ``before``."""
        counts = self.results.latency_counts
        return latency_quantiles_ms(counts if before is None else counts - before, [0.5])[0]

    def picture(self) -> tuple[Result, Canvas] | None:
        """The newest annotated picture, None where there is none; the canvas is good until the next call."""
        for _ in range(3):  # a frame may be overwritten while it is copied
            seq = self.newest
            if seq < 0:
                return None
            try:
                result = self.results.result(seq)
                frame = self._reader.frame(seq)
                canvas = self._canvas_for(frame.image.layout)
                frame.image.copy_to(canvas.image)
                if not self._reader.valid(frame):
                    continue
            except FrameExpired:
                continue
            assert self._overlay is not None
            self._overlay.catch_up(seq, self.results.result)
            self._overlay.draw(canvas.image, result)
            return result, canvas
        return None

    def _canvas_for(self, layout: Layout) -> Canvas:
        from pipeline.sinks.canvas import Canvas

        if self._canvas is None or self._canvas.layout != layout:
            self._canvas, self._overlay = Canvas(layout), self._create_overlay(layout)
        return self._canvas

    def close(self) -> None:
        self._reader.close()
        self.head.close()
        self.results.close()


@dataclass(frozen=True, slots=True)
class SiteView:
    """A running site as its viewers see it.

    event_log: its file, which may not be there yet. packets, bells: by source, the sockets of its packets and of the
    bell that rings for a result. evidence: folders with the clips and pictures of events. recordings: files or folders.
    """

    name: str
    views: Mapping[str, View]
    packets: Mapping[str, str] = field(default_factory=dict)
    bells: Mapping[str, str] = field(default_factory=dict)
    event_log: Path | None = None
    evidence: Sequence[Path] = ()
    recordings: Sequence[Path] = ()


class ViewSink(Protocol):
    """A sink that watches, in a process of its own, and takes what it likes; the others never wait for it."""

    accepts: ClassVar[Accepts]

    def open(self, site: SiteView) -> None:
        """Raises ``StartupError`` where this machine lacks something."""

    def step(self) -> float:
        """Does what is due; returns the seconds that it may be left alone."""

    @property
    def wakers(self) -> Sequence[Any]:
        """ZeroMQ sockets whose readability means that ``step`` has something to do."""

    def close(self) -> None:
        """Safe twice, and after a failed ``open``."""
