"""How a source stands, in the head of its ring: its newest changes of state, written by its capture alone.

A change is a row of words that is marked, filled and counted like a frame, so anybody may look at any time, without a
lock. Inference takes every change once, by its number; the others look at the newest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.types import SourceReason, SourceState

CHANGES, CHANGE_WORDS = 64, 8
"""So many are kept."""

_STATES: tuple[SourceState, ...] = get_args(SourceState)
_REASONS: tuple[SourceReason, ...] = get_args(SourceReason)


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """How a source stands since a moment.

    number: how many changes there were before. since_ns: monotonic clock. wall_ns, time_s: the same moment for people
    and on the source's analytic clock. seq: the first frame behind it.
    """

    number: int
    state: SourceState
    reason: SourceReason
    since_ns: int
    wall_ns: int
    time_s: float
    seq: int


class Changes:
    """The changes of one source's state."""

    def __init__(self, count: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """count: (1,) word. rows: (CHANGES * CHANGE_WORDS,) words."""
        self._count = count
        self._rows = rows.reshape(CHANGES, CHANGE_WORDS)

    def add(
        self, state: SourceState, reason: SourceReason, *, since_ns: int, wall_ns: int, time_s: float, seq: int
    ) -> None:
        """The source stands differently from now on: a whole row first, then the count that makes it the newest."""
        number = self.count
        row = self._rows[number % CHANGES]
        row[0] = -1
        row[1:6] = _STATES.index(state), _REASONS.index(reason), since_ns, wall_ns, seq
        row[6:7].view(np.float64)[0] = time_s
        row[0] = number + 1  # fresh memory is 0: no number
        self._count[0] = number + 1

    @property
    def count(self) -> int:
        """How often the state or its reason has changed so far."""
        return int(self._count[0])

    def get(self, number: int) -> SourceStatus | None:
        """Change ``number``, if it is one of the newest 64."""
        row = self._rows[number % CHANGES]
        mark, state, reason, since_ns, wall_ns, seq, time_bits, _ = row.tolist()
        if mark != number + 1 or int(row[0]) != number + 1:
            return None
        time_s = float(np.int64(time_bits).view(np.float64))
        return SourceStatus(number, _STATES[state], _REASONS[reason], since_ns, wall_ns, time_s, seq)

    @property
    def newest(self) -> SourceStatus | None:
        """How the source stands now; None before its capture has said anything."""
        while count := self.count:
            if (status := self.get(count - 1)) is not None:
                return status
        return None
