"""How often, and how soon, a stage that crashes is started again."""

from __future__ import annotations

from collections import deque

RESTARTS_MAX, RESTARTS_WITHIN_S = 8, 60.0
RESTART_DELAY_S, RESTART_DELAY_MAX_S = 0.05, 300.0
WELL_S = 60.0
"""Each failure doubles the delay before the next start; a stage that has run well for so long begins anew."""


class Budget:
    """That of one stage."""

    def __init__(self) -> None:
        self._crashes_s: deque[float] = deque()
        self._failures = 0

    @property
    def crashes(self) -> int:
        """How many there were within ``RESTARTS_WITHIN_S`` of the newest."""
        return len(self._crashes_s)

    @property
    def exceeded(self) -> bool:
        """Whether that is too often."""
        return self.crashes > RESTARTS_MAX

    def spend(self, now_s: float, ran_s: float) -> float:
        """One crash more, after it had run for ``ran_s``; returns the seconds until the next start.

        now_s: monotonic clock.
        """
        self._crashes_s.append(now_s)
        while self._crashes_s[0] < now_s - RESTARTS_WITHIN_S:
            self._crashes_s.popleft()
        self._failures = 1 if ran_s >= WELL_S else self._failures + 1
        return float(min(RESTART_DELAY_S * 2 ** min(self._failures - 1, 30), RESTART_DELAY_MAX_S))
