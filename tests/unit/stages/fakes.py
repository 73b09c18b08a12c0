"""A source, a detector, sinks and clocks that do what a test says, around real shared memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

from pipeline.capture.source import Pacing
from pipeline.errors import PipelineError, RuntimeFailure
from pipeline.inference.detector import Detector
from pipeline.inference.lane import Lane
from pipeline.inference.schedule import Pace, StillScene
from pipeline.inference.stage import InferenceStage
from pipeline.sinks.encoder import Encoder
from pipeline.sinks.sink import Accepts, Packet, Stream, Wish
from pipeline.transport.channel import Bell, BellListener
from pipeline.transport.head import LOSSLESS, SKIPPABLE, Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader, Writer
from pipeline.types import I420, Detections, Event, FrameRef, Layout, Picture, Result

SMALL = Layout(32, 16)


class FakeClock:
    """Nanoseconds that pass only when told to."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


class FakeBell:
    """Counts how often it was rung; never readable."""

    socket: ClassVar[Any] = None

    def __init__(self) -> None:
        self.rung = 0

    def ring(self) -> None:
        self.rung += 1

    def clear(self) -> None: ...

    def close(self) -> None: ...


def as_bell(bell: FakeBell) -> Bell:
    return cast("Bell", bell)


def as_listener(bell: FakeBell) -> BellListener:
    return cast("BellListener", bell)


def grey(level: int, layout: Layout = SMALL) -> I420:
    image = I420.empty(layout)
    image.y[:] = level
    image.u[:] = image.v[:] = 128
    return image


class FakeSource:
    """Plays a list of pictures and errors."""

    def __init__(self, items: Iterable[Picture | PipelineError], pacing: Pacing = "lossless") -> None:
        self.pacing = pacing
        self.items = list(items)
        self.next = 0
        self.opened = self.closed = 0
        self.start_wall_ns: int | None = None
        self.expected_frames: int | None = len(self.items)

    def open(self) -> None:
        self.opened += 1

    def seek(self, seq: int, last_s: float | None = None) -> None:
        self.next = seq

    def read(self) -> Picture | None:
        if self.next >= len(self.items):
            return None
        item = self.items[self.next]
        self.next += 1
        if isinstance(item, PipelineError):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1


def film(count: int, layout: Layout = SMALL, step_s: float = 0.04) -> list[Picture]:
    return [Picture(grey(20 + number, layout), number * step_s) for number in range(count)]


def publish(writer: Writer, count: int, layout: Layout = SMALL) -> None:
    """``count`` more frames, 25 a second; the luma of each says its number."""
    for _ in range(count):
        seq = writer.head.next_seq
        grey(20 + seq % 200, layout).copy_to(writer.claim(layout))
        writer.publish(time_s=seq / 25, captured_ns=seq, wall_ns=seq)


def head_in(directory: Path, source: str = "gate", *, lossless_annotator: bool = True) -> Head:
    part = LOSSLESS if lossless_annotator else SKIPPABLE
    return Head.create(directory, source, [("inference", LOSSLESS), ("annotator", part)])


@dataclass
class FakeDetector:
    """Finds nothing, and remembers what it was shown; waits at a gate where there is one."""

    labels: tuple[str, ...] = ("mask", "no_mask")
    gate: threading.Event | None = None
    shown: list[int] = field(default_factory=list)
    before: Callable[[int], None] | None = None
    closed: bool = False

    def detect_i420(self, image: I420) -> Detections:
        level = int(image.y[0, 0])
        self.shown.append(level - 20)
        if self.before:
            self.before(level - 20)
        if self.gate:
            assert self.gate.wait(30)
        return Detections.none()

    def close(self) -> None:
        self.closed = True

    def as_detector(self) -> Detector:
        return cast("Detector", self)


@dataclass
class FakeAnalytics:
    """Every result as it comes; one event for every frame whose number is in ``events_at``."""

    events_at: Sequence[int] = ()
    seen: list[int] = field(default_factory=list)
    finished: str | None = None

    def update(
        self, frame: FrameRef, detections: Detections | None, reason: str | None, size_wh: tuple[int, int]
    ) -> tuple[Result, list[Event]]:
        assert size_wh == (SMALL.width, SMALL.height)
        self.seen.append(frame.seq)
        events = [event_of(frame.seq)] if frame.seq in self.events_at else []
        return Result(frame, (), detections is not None, reason), events

    def source_changed(self, state: str, reason: str, wall_ns: int, time_s: float) -> list[Event]:
        return []

    def finish(self, reason: str, wall_ns: int = 0, time_s: float = 0.0) -> list[Event]:
        self.finished = reason
        return []

    def snapshot(self) -> list[int]:
        return self.seen

    def restore(self, state: Any) -> None:
        self.seen = list(state)


def event_of(seq: int) -> Event:
    return Event(
        id=f"{seq:026}", phase="new", kind="no_mask", source="gate", track=1, t_start="2026-11-22T00:00:00Z",
        t_end=None, stream_s=seq / 25, confidence=0.9,
    )  # fmt: skip


def lane_of(
    head: Head, results: ResultLog, analytics: FakeAnalytics, pace: Pace | None = None, scene: StillScene | None = None
) -> Lane:
    found, events = FakeBell(), FakeBell()
    return Lane(
        head, Reader(head, "inference"), results, analytics, as_bell(found), as_bell(events), pace or Pace(), scene
    )


def inference_of(lanes: Sequence[Lane], detector: FakeDetector, *, in_flight: int = 1, **more: Any) -> InferenceStage:
    by_source = {lane.source_id: lane for lane in lanes}
    return InferenceStage(
        "inference/all",
        list(by_source),
        by_source.__getitem__,
        detector.as_detector,
        as_listener(FakeBell()),
        in_flight=in_flight,
        **more,
    )


class FakeEncoder:
    """One packet a frame; its data is the luma of the frame."""

    def __init__(self, layout: Layout) -> None:
        self.stream = Stream(layout, b"")
        self._image = I420.empty(layout)

    def frame(self) -> I420:
        return self._image

    def encode(self, ref: FrameRef, *, keyframe: bool = False) -> list[Packet]:
        level = bytes([int(self._image.y[-1, -1])])
        return [Packet(level, keyframe, ref.seq, round(ref.time_s * 90_000), ref.time_s, ref.wall_ns)]

    def flush(self) -> list[Packet]:
        return []

    @classmethod
    def create(cls, layout: Layout) -> Encoder:
        return cast("Encoder", cls(layout))


class FakeSink:
    """Stores packets in a list that outlives it; ``safe_every``: how many packets it stores at a time."""

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = True

    def __init__(self, stored: list[tuple[int, int, float]], safe_every: int = 1) -> None:
        self.stored = stored
        self._held: list[tuple[int, int, float]] = []
        self._safe_every = safe_every
        self.streams: list[Layout] = []
        self.keyframes: list[int] = []
        self.wishes: Callable[[float], Wish] = lambda _: Wish.PACKET
        self.fails_at: int | None = None
        self.refuses: list[PipelineError] = []
        self.finished = 0

    def open(self) -> float | None:
        if self.refuses:
            raise self.refuses.pop()
        return self.stored[-1][2] if self.stored else None

    def start(self, stream: Stream) -> None:
        self.streams.append(stream.layout)

    def wish(self, time_s: float) -> Wish:
        return self.wishes(time_s)

    def write(self, packet: Packet) -> float | None:
        if packet.seq == self.fails_at:
            raise RuntimeFailure("the disk is full")
        if packet.keyframe:
            self.keyframes.append(packet.seq)
        self._held.append((packet.seq, packet.data[0] - 20, packet.time_s))
        if len(self._held) >= self._safe_every:
            self._store()
        return self.stored[-1][2] if self.stored else None

    def finish(self) -> None:
        self._store()
        self.finished += 1

    def _store(self) -> None:
        self.stored += self._held
        self._held = []

    def close(self) -> None:
        self._held = []
