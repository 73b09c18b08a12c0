"""What inference holds of one source: its ring, its results, its analytics, and the frames that are on their way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.inference.schedule import Pace, StillScene
from pipeline.transport.channel import Bell, BellListener
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Frame, Reader
from pipeline.types import Detections, Event, FrameRef, Result


class Analytics(Protocol):
    """Tracker and rules of one source."""

    def update(
        self, frame: FrameRef, detections: Detections | None, reason: str | None, size_wh: tuple[int, int]
    ) -> tuple[Result, list[Event]]: ...

    def source_changed(self, state: str, reason: str, wall_ns: int, time_s: float) -> list[Event]:
        """The source is ``live``, or ``lost`` for ``reason``; may say again what is known."""

    def finish(self, reason: str) -> list[Event]: ...

    def snapshot(self) -> Any: ...

    def restore(self, state: Any) -> None: ...


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
    """What inference holds of one source.

    pace, scene: which of its frames are looked at. looked: the interval of the pace in which the last look was.
    in_sight: somebody was, in the newest result.
    """

    head: Head
    reader: Reader
    results: ResultLog
    analytics: Analytics
    frame_bell: BellListener
    result_bell: Bell
    event_bell: Bell
    pace: Pace = field(default_factory=Pace)
    scene: StillScene | None = None
    looked: int = -1
    in_sight: bool = False
    pending: deque[Pending] = field(default_factory=deque)
    cursor: int = 0
    started_ns: int = 0
    poisoned: int = -1
    proven: bool = False
    """A frame of it has come back in this life of the process."""

    @property
    def drained(self) -> bool:
        return self.head.end_seq == self.cursor and not self.pending
