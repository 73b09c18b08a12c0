"""How a source stands: readable by anybody at any time, whole, and each change once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.transport.changes import CHANGES
from pipeline.transport.head import FRAMES, LOSSLESS, Head


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head.create(tmp_path, "gate", [("inference", LOSSLESS)])
    yield head
    head.close()


def say(head: Head, number: int, state: str = "live", reason: str = "") -> None:
    head.changes.add(state, reason, since_ns=number, wall_ns=2 * number, time_s=number / 7, seq=3 * number)  # type: ignore[arg-type]


def test_before_anything_is_said_nothing_is_known(head: Head) -> None:
    assert head.status is None
    assert head.changes.get(0) is None
    assert (head.losses, head.undecoded) == (0, 0)


def test_another_process_reads_what_was_said(head: Head) -> None:
    say(head, 1, "backing_off", "no such stream")
    other = Head.attach(head.directory, "gate")
    status = other.status
    other.close()
    assert status is not None
    assert (status.number, status.state, status.reason) == (0, "backing_off", "no such stream")
    assert (status.since_ns, status.wall_ns, status.time_s, status.seq) == (1, 2, 1 / 7, 3)


def test_the_newest_64_are_kept(head: Head) -> None:
    for number in range(CHANGES + 10):
        say(head, number)
    assert head.changes.count == CHANGES + 10
    assert head.changes.get(9) is None
    kept = [head.changes.get(number) for number in range(10, CHANGES + 10)]
    assert [status.since_ns for status in kept if status] == list(range(10, CHANGES + 10))
    assert head.status == kept[-1]


def test_an_origin_and_damage_are_kept(head: Head) -> None:
    assert head.origin_ns(5) == 5
    assert head.origin_ns(6) == 5
    head.put_clocks(0, time_s=0, captured_ns=1, wall_ns=1, damaged=True)
    head.put_clocks(1, time_s=1, captured_ns=1, wall_ns=1)
    assert (head.damaged(0), head.damaged(1)) == (True, False)
    head.next_seq = FRAMES
    assert not head.damaged(0), "its place is the next frame's"


def test_what_was_live_and_is_not_is_a_loss(head: Head) -> None:
    for state in ("connecting", "backing_off", "live", "stalled", "backing_off", "connecting", "live", "ended"):
        head.tell(state, "", now_ns=5 * 10**9, wall_ns=7)
    assert head.losses == 1
    assert head.status is not None
    assert (head.status.state, head.status.since_ns, head.status.wall_ns) == ("ended", 5 * 10**9, 7)
