"""How much of a live video is left out of decoding, where decoding cannot keep up with what comes."""

from __future__ import annotations

from typing import Literal

LEAVE_OUT: tuple[Literal["DEFAULT", "NONREF", "NONKEY"], ...] = ("DEFAULT", "NONREF", "NONKEY")
"""FFmpeg's words for what is left out under ever more load: nothing, pictures that no other refers to, all but key
frames.
"""
KEYS_ONLY = len(LEAVE_OUT) - 1
WINDOW_S, LAG_MAX_S, IDLE_MIN, IDLE_ENOUGH = 0.5, 0.4, 0.05, 0.4
"""More is left out where pictures are so late in two windows one behind the other, later in the second, and nobody
waits for one (shares of a window's time); less, where there was time enough in several.
"""
CALM, CALM_MAX = 2, 64
"""So many windows at first; twice as many each time that more has to be left out again."""


class Overload:
    """Of one connection. Clocks are in seconds, monotonic.

    level: the place in ``LEAVE_OUT``. waited_s: how long whoever decodes had nothing to do, in this window; theirs to
    add to.
    """

    def __init__(self, now_s: float) -> None:
        self.level = 0
        self.waited_s = 0.0
        self._since_s = now_s
        self._lag_s = 0.0
        self._calm = 0
        self._calm_enough = CALM

    def packet(self, now_s: float, lag_s: float, *, keyframe: bool) -> None:
        """The next packet has come, ``lag_s`` is how late the newest picture was. More is left out at once; less, which
        can only begin at a key frame, when it has been calm.
        """
        if self._calm >= self._calm_enough:
            if not self.level:
                self._calm_enough = CALM
            elif keyframe:
                self._calm = 0
                self.level -= 1
        watched_s = now_s - self._since_s
        if watched_s < WINDOW_S:
            return
        idle = self.waited_s / watched_s
        self._calm = self._calm + 1 if idle > IDLE_ENOUGH else 0
        if idle < IDLE_MIN and LAG_MAX_S < self._lag_s < lag_s and self.level < KEYS_ONLY:
            self._calm_enough = min(2 * self._calm_enough, CALM_MAX)
            self.level += 1
        self._since_s, self.waited_s, self._lag_s = now_s, 0.0, lag_s
