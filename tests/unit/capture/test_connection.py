"""The state machine of a live source, with a clock of its own."""

from __future__ import annotations

import pytest

from pipeline.capture.connection import FIRST_WAIT_S, JITTER, STEADY_S, UNAUTHORISED_WAIT_S, Connection
from pipeline.types import SourceReason

STALL_S, CAP_S = 5.0, 2.0


class Watched:
    """A connection, what it said, and its clock."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now_s = 100.0
        self.said: list[tuple[str, str]] = []
        self.connection = Connection(
            lambda state, reason: self.said.append((state, reason)),
            lambda: self.now_s,
            stall_s=STALL_S,
            wait_max_s=CAP_S,
            chance=lambda: chance,
        )

    def live_for(self, seconds: float) -> None:
        self.connection.connecting()
        self.connection.picture(damaged=False)
        self.now_s += seconds
        self.connection.picture(damaged=False)

    def fail(self, times: int, reason: SourceReason = "refused") -> list[float]:
        waits = []
        for _ in range(times):
            self.connection.connecting()
            waits.append(self.connection.lost(reason))
        return waits


def test_it_comes_and_goes() -> None:
    watched = Watched()
    watched.live_for(1)
    watched.connection.lost("ended")
    watched.connection.connecting()
    watched.connection.lost("refused")
    watched.live_for(1)
    watched.connection.ended()
    assert watched.said == [
        ("connecting", ""), ("live", ""), ("backing_off", "ended"), ("connecting", "ended"),
        ("backing_off", "refused"), ("connecting", "refused"), ("live", ""), ("ended", "ended"),
    ]  # fmt: skip


def test_waits_double_up_to_the_cap_and_for_ever() -> None:
    waits = Watched().fail(50)
    assert waits[:4] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S, 8 * FIRST_WAIT_S]
    assert set(waits[3:]) == {CAP_S}


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_waits_are_spread(chance: float) -> None:
    waits = Watched(chance).fail(10)
    factor = 1 + JITTER * (2 * chance - 1)
    assert waits[0] == pytest.approx(FIRST_WAIT_S * factor)
    assert waits[-1] == pytest.approx(CAP_S * factor)


def test_a_wrong_login_is_tried_ever_more_seldom() -> None:
    watched = Watched()
    assert watched.fail(20, "unauthorised")[-1] == UNAUTHORISED_WAIT_S
    assert watched.fail(1, "refused") == [CAP_S]


def test_only_a_steady_source_begins_with_the_first_wait_again() -> None:
    watched = Watched()
    watched.fail(10)
    watched.live_for(STEADY_S / 2)
    assert watched.connection.lost("ended") == CAP_S
    watched.live_for(STEADY_S)
    assert watched.connection.lost("ended") == FIRST_WAIT_S


def test_silence_is_noticed_at_the_deadline() -> None:
    watched = Watched()
    watched.live_for(1)
    watched.now_s += STALL_S - 0.01
    watched.connection.check()
    assert watched.connection.state == "live"
    watched.now_s += 0.01
    watched.connection.check()
    assert watched.said[-1] == ("stalled", "timeout")
    watched.connection.lost("timeout")
    assert watched.said[-1] == ("stalled", "timeout")
    watched.connection.connecting()
    watched.connection.lost("timeout")
    assert watched.said[-2:] == [("connecting", "timeout"), ("backing_off", "timeout")]


def test_packets_without_pictures_are_no_silence() -> None:
    watched = Watched()
    watched.live_for(1)
    packet_s = watched.now_s + STALL_S - 1
    watched.now_s += STALL_S + 1
    watched.connection.heard(packet_s)
    watched.connection.heard(packet_s - 3)
    watched.connection.check()
    assert watched.connection.state == "live"
    watched.now_s = packet_s + STALL_S
    watched.connection.check()
    assert watched.said[-1] == ("stalled", "timeout")


def test_a_loss_that_is_told_before_the_deadline_counts_at_once() -> None:
    watched = Watched()
    watched.live_for(1)
    watched.connection.lost("timeout")
    assert watched.said[-1] == ("stalled", "timeout")


def test_damage_is_told_while_it_lasts() -> None:
    watched = Watched()
    watched.live_for(1)
    watched.connection.picture(damaged=True)
    watched.now_s += STEADY_S / 2
    watched.connection.picture(damaged=False)
    assert watched.said[-1] == ("live", "packet_loss")
    watched.now_s += STEADY_S / 2
    watched.connection.picture(damaged=False)
    assert watched.said[-2:] == [("live", "packet_loss"), ("live", "")]


def test_damage_of_the_last_connection_is_forgotten() -> None:
    watched = Watched()
    watched.live_for(1)
    watched.connection.picture(damaged=True)
    watched.connection.lost("ended")
    watched.live_for(0)
    assert watched.said[-1] == ("live", "")


def test_nothing_is_said_twice() -> None:
    watched = Watched()
    watched.connection.connecting()
    watched.connection.connecting()
    for _ in range(3):
        watched.connection.picture(damaged=False)
    assert watched.said == [("connecting", ""), ("live", "")]
