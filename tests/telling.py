"""A rule that tells many events at a known rate, and subscribers that write down what they get.

The rule is a plug-in from outside the package, like a user's: ``kind: tests.telling``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.analytics.rule import RuleConfig
from pipeline.client import subscribe
from pipeline.types import Event, FrameRef, Result
from pipeline.ulid import IdFactory

KIND = "told"


class Config(RuleConfig):
    """per_frame: events with each frame, total: until so many have been told."""

    per_frame: int
    total: int


class Talker:
    """Tells its events with ``stream_s`` as the moment of capture on the machine's monotonic clock."""

    def __init__(self, config: Config, source_id: str, make_id: IdFactory) -> None:
        self._config = config
        self._source_id = source_id
        self._make_id = make_id
        self._told = 0

    def update(self, result: Result) -> list[Event]:
        count = min(self._config.per_frame, self._config.total - self._told)
        events = [self._event(result.frame, self._told + number) for number in range(count)]
        self._told += count
        return events

    def _event(self, frame: FrameRef, number: int) -> Event:
        now = "2026-11-18T11:06:40.000Z"
        return Event(
            id=self._make_id(frame.wall_ns, str(number)), phase="end", kind=KIND, source=self._source_id, track=number,
            t_start=now, t_end=now, stream_s=frame.captured_ns / 1e9, confidence=1.0,
        )  # fmt: skip

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        return []

    def resume(self, away_s: float) -> None: ...

    def snapshot(self) -> Any:
        return self._told

    def restore(self, state: Any) -> None:
        self._told = msgspec.convert(state, int)


def create(config: Config, source_id: str, labels: Sequence[str], id_factory: IdFactory, **_: Any) -> Talker:
    return Talker(config, source_id, id_factory)


class Heard(NamedTuple):
    """One line that a subscriber wrote. late_s: from the capture of the frame to the subscriber's hands."""

    log_id: str
    seq: int
    id: str
    track: int
    late_s: float


def heard_in(path: Path) -> list[Heard]:
    lines = path.read_text().splitlines() if path.exists() else []
    split = [line.split() for line in lines]
    return [Heard(words[0], int(words[1]), words[2], int(words[3]), float(words[4])) for words in split]


def listen(path: Path, address: str, replay: str) -> None:
    """Subscribes behind what is in the file already, and writes a line for each event; until it is killed."""
    had = heard_in(path)
    cursor = (had[-1].log_id, had[-1].seq) if had else (None, 0)
    with path.open("a") as file:
        for event in subscribe(address, replay=replay, cursor=cursor):
            late_s = time.monotonic() - event.stream_s
            file.write(f"{event.log_id} {event.seq} {event.id} {event.track} {late_s:.6f}\n")
            file.flush()


class Every:
    """Does something again and again in a thread of its own."""

    def __init__(self, period_s: float, times: int, action: Callable[[], object]) -> None:
        self.done = 0
        self._period_s = period_s
        self._times = times
        self._action = action
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self.done < self._times and not self._ending.wait(self._period_s):
            self._action()
            self.done += 1

    def end(self) -> None:
        self._ending.set()
        self._thread.join()


if __name__ == "__main__":
    listen(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
