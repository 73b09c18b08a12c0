"""An inference from its start to its end or death, over a ring and a result log that outlive it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipeline.inference.schedule import Pace, StillScene
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Writer
from pipeline.types import Result
from tests.runs import wait_until
from tests.unit.stages.fakes import FakeAnalytics, FakeClock, FakeDetector, inference_of, lane_of


class Inference:
    """One life of an inference over the source ``gate`` in ``directory``; without ``pace`` every frame is due."""

    def __init__(
        self,
        directory: Path,
        detector: FakeDetector | None = None,
        *,
        in_flight: int = 1,
        pace: Pace | None = None,
        scene: StillScene | None = None,
        analytics: FakeAnalytics | None = None,
        clock: FakeClock | None = None,
    ) -> None:
        self.head = Head.attach(directory, "gate")
        self.results = ResultLog.attach(directory, "gate")
        self.analytics = analytics or FakeAnalytics()
        self.detector = detector or FakeDetector()
        lane = lane_of(self.head, self.results, self.analytics, pace, scene)
        self.stage = inference_of([lane], self.detector, in_flight=in_flight, clock_ns=clock or time.monotonic_ns)
        self.stage.open()

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Steps until it is so; the detector's threads need real time."""

        def step() -> bool:
            self.stage.step()
            return condition()

        wait_until(step, what, 30)

    def until_all(self) -> None:
        self.until(lambda: self.results.published == self.head.next_seq, "all results")

    def all_results(self) -> list[Result]:
        return [self.results.result(seq) for seq in range(self.results.published)]

    def reasons(self) -> list[str | None]:
        return [result.reason for result in self.all_results()]


def writer_in(directory: Path, *, lossless: bool) -> Writer:
    return Writer(Head.attach(directory, "gate"), lossless=lossless)
