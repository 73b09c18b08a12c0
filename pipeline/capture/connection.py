"""The one state machine of a live source, for the first connect and for every loss.

``connecting`` → ``live`` → ``stalled`` (nothing has come for ``stall_s``) or ``backing_off`` (refused, ended, no such
stream, …) → after a wait that doubles, with jitter, up to a cap → ``connecting`` → …, for ever.

It does nothing by itself: who connects and reads says what happens, and a clock says when.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from pipeline.types import SourceReason, SourceState

FIRST_WAIT_S = 0.25
JITTER = 0.2
"""A wait is up to so much longer or shorter, so that a hundred clients do not come back at once."""
UNAUTHORISED_WAIT_S = 60.0
"""The cap where the login is wrong: cameras lock out those who try too often."""
STEADY_S = 10.0
"""Live for so long, a source's next loss begins with the first wait again; so long after damage it is healthy again."""

Tell = Callable[[SourceState, SourceReason], None]


class Connection:
    """Says by ``tell`` every change of state or reason. Clocks are in seconds, monotonic."""

    def __init__(
        self,
        tell: Tell,
        clock: Callable[[], float],
        *,
        stall_s: float,
        wait_max_s: float,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """chance: from 0 to 1, for the jitter."""
        self.state: SourceState = "connecting"
        self.reason: SourceReason = ""
        self._tell = tell
        self._clock = clock
        self._stall_s = stall_s
        self._wait_max_s = wait_max_s
        self._chance = chance
        self._wait_s = FIRST_WAIT_S
        self._heard_s = self._live_s = self._damaged_s = float("-inf")
        self._told = False

    def connecting(self) -> None:
        """Another attempt begins; the reason of the last failure stays until it is live."""
        self._heard_s = self._clock()
        self._become("connecting", self.reason)

    def heard(self, packet_s: float) -> None:
        """The newest packet came at ``packet_s``; pictures may be rarer, where not all are decoded."""
        self._heard_s = max(self._heard_s, packet_s)

    def picture(self, *, damaged: bool) -> None:
        """A picture has come; the first one of a connection is clean."""
        now_s = self._heard_s = self._clock()
        if self.state != "live":
            self._live_s, self._damaged_s = now_s, float("-inf")
        if damaged:
            self._damaged_s = now_s
        self._become("live", "packet_loss" if now_s - self._damaged_s < STEADY_S else "")

    def check(self) -> None:
        """From time to time: whether what was live has fallen silent."""
        if self.state == "live" and self._clock() - self._heard_s >= self._stall_s:
            self._become("stalled", "timeout")

    def lost(self, reason: SourceReason) -> float:
        """The attempt, or the connection, has failed. Returns the seconds until the next attempt."""
        if self.state in ("live", "stalled") and self._clock() - self._live_s >= STEADY_S:
            self._wait_s = FIRST_WAIT_S
        silent = reason == "timeout" and self.state in ("live", "stalled")
        self._become("stalled" if silent else "backing_off", reason)
        wait_s = self._wait_s
        cap_s = UNAUTHORISED_WAIT_S if reason == "unauthorised" else self._wait_max_s
        self._wait_s = min(2 * wait_s, cap_s)
        return min(wait_s, cap_s) * (1 + JITTER * (2 * self._chance() - 1))

    def ended(self) -> None:
        self._become("ended", "ended")

    def _become(self, state: SourceState, reason: SourceReason) -> None:
        if not self._told or (state, reason) != (self.state, self.reason):
            self._told = True
            self.state, self.reason = state, reason
            self._tell(state, reason)
