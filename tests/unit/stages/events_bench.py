"""An events stage with everything around it: one outbox, a real log, and sinks that do as they are told."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from pipeline.sinks.delivery import Delivery
from pipeline.sinks.event_log import EventLog
from pipeline.sinks.event_reader import EventReader
from pipeline.sinks.events_stage import EventsStage, OutboxInlet
from pipeline.sinks.sink import Accepts
from pipeline.transport.results import ResultLog
from pipeline.types import FrameRef, Result
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeBell, as_listener, event_of


class FakeEventSink:
    """Keeps the numbers of what it was given; fails as it is told."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, fails: Exception | None = None, after: int = 0) -> None:
        self.got: list[int] = []
        self.fails = fails
        self._after = after

    def open(self, log_id: str) -> int | None:
        return None

    def write(self, event: dict[str, Any]) -> None:
        if self.fails and len(self.got) >= self._after:
            raise self.fails
        self.got.append(event["seq"])

    def beat(self, seq: int) -> None: ...

    def close(self) -> None: ...


class Bench:
    """One source's outbox, a log and sinks whose threads are real."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / "log" / "events.sqlite"
        self.results = ResultLog.create(directory, "gate")
        self.now_s = 0.0
        self.retention_s: float | None = None
        self.log: EventLog | None = None

    def events(self, count: int) -> None:
        for seq in range(self.results.published, self.results.published + count):
            result = Result(FrameRef("gate", seq, 0, seq / 25, 0, 0), (), True)
            self.results.commit(result, [event_of(seq)], None)

    def _create_log(self) -> EventLog:
        self.log = EventLog(self.path, "run-1")
        return self.log

    def stage(self, *, restarted: bool = False, **sinks: FakeEventSink) -> EventsStage:
        inlet = OutboxInlet("gate", ResultLog.attach(self.directory, "gate"), as_listener(FakeBell()))
        deliveries = [
            Delivery(name, sink, frozenset(["gate"]), self.directory / "cursors" / name) for name, sink in sinks.items()
        ]
        stage = EventsStage(
            "events",
            [inlet],
            deliveries,
            self._create_log,
            retention_s=self.retention_s,
            restarted=restarted,
            clock=lambda: self.now_s,
        )
        stage.open()
        return stage

    def logged(self) -> list[dict[str, Any]]:
        with closing(EventReader(self.path)) as reader:
            return reader.after(0, 1_000_000)


def work(stage: EventsStage) -> None:
    while stage.step() == 0:
        pass


def to_the_end(stage: EventsStage) -> None:
    wait_until(lambda: stage.step() is None, "the end of the stage")
    stage.close()
