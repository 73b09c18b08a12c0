"""Which frames a recording of packets lacks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.sinks.tally import BEHIND_MAX, Tally
from pipeline.transport.packet_ring import NO_FRAME, REORDER_MAX


@given(
    st.integers(1, 80).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)), st.sets(st.integers(0, n - 1)))
    ),
    st.integers(1, REORDER_MAX),
    st.integers(0, 30),
)
def test_what_never_comes_or_is_left_out_is_told_once(
    frames: tuple[int, set[int], set[int]], depth: int, late: int
) -> None:
    """Packets in the order of decoding, some frames ahead of what is followed or some behind it."""
    count, lost, left_out = frames
    order = [frame for first in range(0, count, depth) for frame in reversed(range(first, min(count, first + depth)))]
    coming = [frame for frame in order if frame not in lost]
    tally = Tally()
    told: list[int] = []
    for frame in range(count + late):
        if frame < count:
            tally.follow(frame)
        for _ in range(2 if frame >= late else 0):
            if coming:
                passed = coming.pop(0)
                tally.passed(passed, stored=passed not in left_out)
                tally.passed(NO_FRAME, stored=True)
        told += tally.lacking(at_end=False)
    for passed in coming:
        tally.passed(passed, stored=passed not in left_out)
    told += tally.lacking(at_end=True)
    assert sorted(told) == sorted(lost | left_out)


def test_what_is_lost_is_told_soon() -> None:
    tally = Tally()
    told: list[tuple[int, int]] = []
    for frame in range(40):
        tally.follow(frame)
        if frame != 5:
            tally.passed(frame, stored=True)
        told += [(frame, lacking) for lacking in tally.lacking(at_end=False)]
    assert told == [(5 + REORDER_MAX + 1, 5)]


def test_a_restart_goes_on_with_what_was_awaited() -> None:
    tally = Tally()
    tally.take_up([10, 14, 12, 11, 13, NO_FRAME, 18, 16], 17)  # 15 was followed, and 18 is early
    for frame in (17, 18, 19):
        tally.follow(frame)
    tally.passed(15, stored=True)
    assert tally.lacking(at_end=False) == []
    tally.passed(19, stored=True)
    assert tally.lacking(at_end=True) == [17]
    assert tally.lacking(at_end=True) == []


def test_an_outage_is_awaited_from_the_last_stored_frame_on() -> None:
    tally = Tally()
    for frame in range(10):
        tally.follow(frame)
        tally.passed(frame, stored=True)
    assert tally.take_up([6, 7, 8], 30)  # 9 was not safe
    tally.follow(30)
    for frame in range(20, 31):
        tally.passed(frame, stored=True)
    assert tally.lacking(at_end=True) == list(range(9, 20))


def test_an_outage_behind_which_nothing_stored_is_known_any_more_is_awaited_as_well() -> None:
    tally = Tally()
    for frame in range(10):
        tally.follow(frame)
        if frame < 8:
            tally.passed(frame, stored=True)
    assert tally.take_up([], 300)
    tally.follow(300)
    for frame in range(200, 301):
        tally.passed(frame, stored=frame >= 210)
    assert tally.lacking(at_end=False) == list(range(8, 210))
    assert tally.lacking(at_end=True) == []
    assert not Tally().take_up([], 300)


def test_where_no_packet_comes_frames_are_missing_and_few_are_awaited() -> None:
    tally = Tally()
    told: list[int] = []
    for frame in range(1000):
        tally.follow(frame)
        told += tally.lacking(at_end=False)
    assert told == list(range(999 - BEHIND_MAX))
    tally.passed(5, stored=False)  # told already
    assert tally.lacking(at_end=True) == list(range(999 - BEHIND_MAX, 1000))


def test_frames_that_were_not_followed_are_awaited_with_the_next_one() -> None:
    tally = Tally()
    tally.follow(0)
    tally.passed(2, stored=True)
    tally.follow(4)
    assert tally.lacking(at_end=True) == [0, 1, 3, 4]


def test_a_restart_before_anything_is_stored_awaits_what_comes() -> None:
    tally = Tally()
    tally.take_up([], 5)
    tally.follow(5)
    tally.passed(4, stored=True)
    assert tally.lacking(at_end=True) == [5]
