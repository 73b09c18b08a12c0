"""The result log: a frame is committed whole or not at all, whenever the writer dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.analytics.association import FACES_MAX
from pipeline.analytics.tracking import TRACKS_MAX
from pipeline.errors import FrameExpired, RuntimeFailure
from pipeline.transport import results as module
from pipeline.transport.results import OUTBOX, RESULTS, ResultLog, latency_quantiles_ms
from pipeline.types import Event, FrameRef, Result, Track


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ResultLog]:
    log = ResultLog.create(tmp_path, "gate")
    yield log
    log.close()


def result(seq: int, faces: int = 1, *, detected: bool = True, reason: str | None = None) -> Result:
    track = Track(7, 1, 0.9, (1.0, 2.0, 3.0, 4.0), detected=True)
    return Result(FrameRef("gate", seq, 0, seq / 25, 10**9 * seq, seq), (track,) * faces, detected, reason)


def event(number: int, phase: Any = "new") -> Event:
    return Event(
        id=f"{number:026}", phase=phase, kind="no_mask", source="gate", track=7, t_start="2026-01-01T00:00:00.000Z",
        t_end=None, stream_s=number / 25, confidence=0.9,
    )  # fmt: skip


def test_results_events_and_state_come_back(log: ResultLog, tmp_path: Path) -> None:
    log.commit(result(0), [], {"n": 0})
    log.commit(result(1, faces=3), [event(1), event(2)], {"n": 1})
    other = ResultLog.attach(tmp_path, "gate")
    assert (other.published, other.events_published, other.episodes) == (2, 2, 2)
    assert other.result(1) == result(1, faces=3)
    assert other.event(1) == event(2)
    assert other.resume() == {"n": 1}
    other.close()


def test_before_the_first_frame_there_is_no_state(log: ResultLog) -> None:
    assert log.resume() is None
    with pytest.raises(FrameExpired):
        log.result(0)
    with pytest.raises(FrameExpired):
        log.event(0)


def test_old_results_give_way(log: ResultLog) -> None:
    for seq in range(RESULTS + 1):
        log.commit(result(seq), [], None)
    with pytest.raises(FrameExpired):
        log.result(0)
    assert log.result(1) == result(1)


class DiedError(Exception):
    """Stands for a kill -9 between two stores."""


@pytest.mark.parametrize("survived", range(4))
def test_a_writer_that_dies_while_committing_leaves_the_frame_before(
    log: ResultLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    """Records of a commit: result, two events, state. After ``survived`` of them the process is gone."""
    log.commit(result(0), [event(0)], {"n": 0})
    put, count = ResultLog._put, 0

    def dying(self: ResultLog, byte: int, room: int, number: int, raw: bytes) -> None:
        nonlocal count
        if count == survived:
            self._words[byte // 8] = -1  # the record that was being written is dead
            raise DiedError
        count += 1
        put(self, byte, room, number, raw)

    monkeypatch.setattr(ResultLog, "_put", dying)
    with pytest.raises(DiedError):
        log.commit(result(1), [event(1), event(2)], {"n": 1})
    monkeypatch.undo()
    again = ResultLog.attach(tmp_path, "gate")
    assert (again.published, again.events_published) == (1, 1)
    assert again.resume() == {"n": 0}
    assert again.result(0) == result(0)
    again.commit(result(1), [event(1), event(2)], {"n": 1})
    assert [again.event(i) for i in range(3)] == [event(0), event(1), event(2)]
    assert again.resume() == {"n": 1}
    again.close()


@pytest.mark.parametrize("next_is", ["restarted", "abandoned"])
def test_a_writer_that_dies_behind_the_commit_has_said_and_counted_everything(log: ResultLog, next_is: str) -> None:
    log.commit(result(0), [event(0)], {"n": 0}, (3, 4))
    log._words[module._PUBLISHED] = log._words[module._EVENTS] = 0  # no store behind the commit was reached
    log._words[module._FIGURES : module._FIGURES_END] = 0
    if next_is == "restarted":
        assert log.resume() == {"n": 0}
    else:
        log.abandon()
        assert log.finished
    assert (log.published, log.events_published, log.episodes, log.detected, log.faces) == (1, 1, 1, 1, (3, 4))


def test_what_happens_to_the_source_is_committed_between_two_frames(log: ResultLog) -> None:
    log.commit_change(1, [event(0)], {"n": "lost"})
    assert (log.published, log.events_published, log.changes_taken) == (0, 1, 1)
    assert log.resume() == {"n": "lost"}
    log.commit(result(0), [event(1)], {"n": 0})
    log.commit_change(3, [], {"n": "live"})
    assert (log.published, log.events_published, log.changes_taken, log.episodes) == (1, 2, 3, 2)
    assert log.resume() == {"n": "live"}
    assert [log.event(number) for number in range(2)] == [event(0), event(1)]


def test_a_writer_that_dies_while_it_commits_a_change_says_it_once(
    log: ResultLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.commit(result(0), [], {"n": 0})
    with monkeypatch.context() as patch:
        patch.setattr(ResultLog, "_state_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            log.commit_change(1, [event(0)], {"n": "lost"})
    assert log.resume() == {"n": 0}
    assert (log.events_published, log.changes_taken) == (0, 0)
    log.commit_change(1, [event(0)], {"n": "lost"})
    assert (log.events_published, log.changes_taken) == (1, 1)


def test_a_crowd_fits_into_a_record(log: ResultLog) -> None:
    log.commit(result(0, faces=TRACKS_MAX + FACES_MAX), [], None)
    assert len(log.result(0).tracks) == TRACKS_MAX + FACES_MAX


def test_finishing_twice_says_the_same_events_once(log: ResultLog) -> None:
    log.commit(result(0), [], {"n": 0})
    log.finish([event(1, "end")])
    log.finish([event(2, "end")])
    assert log.finished
    assert log.events_published == 1
    assert log.event(0) == event(1, "end")


def test_the_outbox_says_when_it_is_full(log: ResultLog) -> None:
    assert log.has_room(OUTBOX)
    log.commit(result(0), [event(i) for i in range(OUTBOX)], None)
    assert not log.has_room(1)
    log.events_taken = 10
    assert log.has_room(10)
    assert not log.has_room(11)
    log.detach_events()
    assert log.has_room(OUTBOX)


def test_a_record_that_is_too_large_is_an_error(log: ResultLog) -> None:
    with pytest.raises(RuntimeFailure, match="does not fit"):
        log.commit(result(0, faces=2000), [], None)
    assert log.published == 0


def test_figures(log: ResultLog) -> None:
    for seq in range(100):
        log.commit(result(seq), [], None, (1, 2))
        log.note_latency(result(seq), 10**9 * seq + 20_000_000)
    left_out = result(100, detected=False, reason="overload")
    log.commit(left_out, [], None, (9, 9))
    log.note_latency(left_out, 10**12)
    assert (log.detected, log.faces, log.skipped) == (100, (100, 200), {"overload": 1})
    assert (log.first_result_ns, log.last_result_ns) == (20_000_000, 10**12)
    p50, p99 = latency_quantiles_ms(log.latency_counts, [0.5, 0.99])
    assert p50 == p99 == pytest.approx(20, rel=0.026)


def test_quantiles_of_nothing_are_none() -> None:
    assert latency_quantiles_ms(np.zeros(512, np.int64), [0.5]) == [None]


def test_a_repeated_attempt_is_counted(log: ResultLog) -> None:
    assert [log.attempt(5), log.attempt(5), log.attempt(5), log.attempt(6)] == [0, 1, 2, 0]
