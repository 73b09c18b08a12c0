"""Sources that come and go while an inference runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.inference.lane import Lane
from pipeline.inference.stage import InferenceStage
from pipeline.transport.head import Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Writer
from pipeline.types import Event, Result
from tests.runs import wait_until
from tests.unit.stages.fakes import (
    FakeAnalytics,
    FakeBell,
    FakeDetector,
    as_listener,
    event_of,
    head_in,
    lane_of,
    publish,
)


class Open(FakeAnalytics):
    """One episode is open from the first frame on, and ends with the stream."""

    def update(self, *arguments: Any) -> tuple[Result, list[Event]]:
        self.finished = None
        return super().update(*arguments)

    def finish(self, reason: str, wall_ns: int = 0, time_s: float = 0.0) -> list[Event]:
        self.ended = (wall_ns, time_s)
        had = bool(self.seen) and self.finished is None
        self.finished = reason
        return [event_of(self.seen[-1])] if had else []


class OtherRules(Open):
    """Knows no state but its own, and finds that out late."""

    def restore(self, state: Any) -> None:
        super().restore(state)
        if state:
            raise ValueError("a state for other rules than no_mask")


class Site:
    """An inference over sources that a test makes. create: the analytics of a source."""

    def __init__(self, directory: Path, create: Callable[[str], Open] = lambda _: Open()) -> None:
        self.directory = directory
        self._create = create
        self.news: list[list[str]] = []
        self.lanes: dict[str, Lane] = {}
        self.analytics: dict[str, Open] = {}
        self.left: list[str] = []
        self.detector = FakeDetector()
        self.stage = InferenceStage(
            "inference/all",
            ["gate"],
            self._lane,
            self.detector.as_detector,
            as_listener(FakeBell()),
            in_flight=2,
            told=lambda: self.news.pop(0) if self.news else None,
        )

    def source(self, name: str) -> Writer:
        results = ResultLog.create(self.directory, name)
        results.detach_events()
        results.close()
        return Writer(head_in(self.directory, name), lossless=True)

    def _lane(self, source: str) -> Lane:
        head, results = Head.attach(self.directory, source), ResultLog.attach(self.directory, source)
        self.analytics[source] = self._create(source)
        lane = self.lanes[source] = lane_of(head, results, self.analytics[source])
        lane.leave = lambda: self.left.append(source)
        return lane

    def until_published(self, source: str, count: int) -> None:
        def reached() -> bool:
            self.stage.step()
            return source in self.lanes and self.lanes[source].results.published == count

        wait_until(reached, f"{count} results of {source}", 30)


def test_a_new_source_is_taken_up_and_the_others_go_on(tmp_path: Path) -> None:
    site = Site(tmp_path)
    gate = site.source("gate")
    site.stage.open()
    publish(gate, 3)
    site.until_published("gate", 3)
    yard = site.source("yard")
    publish(yard, 2)
    site.news.append(["gate", "yard"])
    site.until_published("yard", 2)
    first = site.lanes["gate"]
    publish(gate, 2)
    site.until_published("gate", 5)
    assert site.lanes["gate"] is first
    site.stage.close()
    assert sorted(site.left) == ["gate", "yard"]


def test_a_source_that_is_removed_comes_to_its_end_first(tmp_path: Path) -> None:
    site = Site(tmp_path)
    gate, yard = site.source("gate"), site.source("yard")
    site.stage.open()
    site.news.append(["gate", "yard"])
    publish(yard, 4)
    site.news.append(["gate"])
    yard.head.end("stopped")
    site.until_published("yard", 4)
    wait_until(lambda: site.stage.step() is not None and site.left == ["yard"], "that the source is let go", 30)
    assert site.analytics["yard"].finished == "stopped"
    publish(gate, 2)
    site.until_published("gate", 2)
    site.stage.close()


def test_analytics_are_told_when_a_lost_source_ended(tmp_path: Path) -> None:
    site = Site(tmp_path)
    gate = site.source("gate")
    site.stage.open()
    lost_ns = time.monotonic_ns() - 60_000_000_000
    gate.head.changes.add("backing_off", "refused", since_ns=lost_ns, wall_ns=1_000_000_000, time_s=1.0, seq=0)
    gate.head.end("stopped")
    wait_until(lambda: site.stage.step() is None, "the end", 30)
    wall_ns, time_s = site.analytics["gate"].ended
    assert 61 <= wall_ns / 1e9 < 120
    assert time_s == pytest.approx(wall_ns / 1e9, abs=1e-3)
    site.stage.close()


def test_a_source_that_comes_back_goes_on_without_what_ended(tmp_path: Path) -> None:
    """Its frames are numbered on, and the episode that ended with it is not told to end again."""
    site = Site(tmp_path)
    gate, yard = site.source("gate"), site.source("yard")
    site.stage.open()
    site.news.append(["gate", "yard"])
    publish(yard, 4)
    site.news.append(["gate"])
    yard.head.end("stopped")
    wait_until(lambda: site.stage.step() is not None and site.left == ["yard"], "that the source is let go", 30)
    results = ResultLog.attach(tmp_path, "yard")
    assert (results.events_published, results.finished) == (1, True)

    yard.head.reopen([])
    site.news.append(["gate", "yard"])
    wait_until(lambda: site.stage.step() is not None and not results.finished, "that it is taken up", 30)
    assert (results.events_published, results.published) == (1, 4)
    assert site.analytics["yard"].seen == [0, 1, 2, 3]
    publish(yard, 3)
    site.until_published("yard", 7)
    yard.head.end("stopped")
    gate.head.end("stopped")
    wait_until(lambda: site.stage.step() is None, "the end", 30)
    assert results.events_published == 2
    site.stage.close()


def test_a_state_of_other_rules_begins_anew_and_the_other_sources_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Site(tmp_path)
    gate, yard = first.source("gate"), first.source("yard")
    first.stage.open()
    first.news.append(["gate", "yard"])
    publish(gate, 2)
    publish(yard, 3)
    first.until_published("gate", 2)
    first.until_published("yard", 3)
    first.stage.close()

    second = Site(tmp_path, lambda source: OtherRules() if source == "yard" else Open())
    second.stage.open()
    second.news.append(["gate", "yard"])
    publish(gate, 1)
    publish(yard, 2)
    second.until_published("gate", 3)
    second.until_published("yard", 5)
    assert second.analytics["gate"].seen == [0, 1, 2]
    assert second.analytics["yard"].seen == [3, 4]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "yard: tracks begin anew, and open episodes get no end: a state for other rules than no_mask"
    ]
    second.stage.close()
