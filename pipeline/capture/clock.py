"""Clocks of a file and of a live source: from timestamps, good or bad, to seconds that always go forward."""

from __future__ import annotations

from fractions import Fraction

_RESTART_S = 1
"""A timestamp that falls back by this much begins a new count; less than that is disorder within one."""
_JUMP_S = 2.0
"""A live picture that is so much later, or earlier, than its timestamp says has another count of timestamps."""
_DRIFT = 1e-3


class StreamClock:
    """Seconds since the first picture, strictly increasing, the same at every reading of the same file.

    A picture's time is its timestamp minus the first one's, where that lies after the preceding picture. Where the
    timestamp is missing, repeated or lower, the picture follows the preceding one by ``1 / rate``; so a file without
    any timestamps counts ``n / rate``. Where timestamps fall back by a second or more (joined files), they count on
    from that picture. Variable rates and gaps are kept as they are.
    """

    def __init__(self, rate: Fraction, start: Fraction = Fraction(0)) -> None:
        """rate: pictures a second, above 0. start: time of the first picture, in seconds."""
        self.step = 1 / rate
        self._start = start
        self._now: Fraction | None = None
        self._origin: Fraction | None = None
        self._highest = Fraction(0)

    @property
    def next_start(self) -> Fraction:
        """Where a clock that goes on after this one starts."""
        return self._start if self._now is None else self._now + self.step

    def tick(self, timestamp: int | None, time_base: Fraction) -> float:
        """The time in seconds of the next picture, whose timestamp counts in ``time_base`` seconds."""
        now = self.next_start
        if timestamp is not None:
            stamp = timestamp * time_base
            if self._origin is None or stamp <= self._highest - _RESTART_S:
                self._origin, self._highest = stamp - now, stamp
            elif self._now is None or stamp - self._origin > self._now:
                now = stamp - self._origin
            self._highest = max(self._highest, stamp)
        self._now = now
        return float(now)


class LiveClock:
    """When a picture was taken, on the receiver's clock: the sender's even steps instead of the network's uneven ones.

    A picture cannot arrive before it was taken, so the smallest distance between arrival and timestamp is the best
    estimate of what lies between the two clocks. Where the sender's clock runs faster the distance shrinks by itself;
    where it runs slower it is let out by ``_DRIFT`` of what is missing at every picture. A timestamp that jumps begins
    a new count; a picture without one was taken when it arrived.
    """

    def __init__(self) -> None:
        self._distance_s: float | None = None
        self.lag_s = 0.0
        """By how much later than the quickest the newest picture has arrived: the queue on the way, in seconds."""

    def tick(self, stamp_s: float | None, arrival_s: float) -> float:
        """The time of the picture with that timestamp; both in seconds, never later than ``arrival_s``."""
        if stamp_s is None:
            return arrival_s - self.lag_s
        distance_s = arrival_s - stamp_s
        if self._distance_s is None or abs(distance_s - self._distance_s) > _JUMP_S:
            self._distance_s = distance_s
        self._distance_s = min(distance_s, self._distance_s + _DRIFT * (distance_s - self._distance_s))
        self.lag_s = distance_s - self._distance_s
        return stamp_s + self._distance_s
