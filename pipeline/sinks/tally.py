"""Which frames are not in a recording of packets that come in another order, and a little later, than frames do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.transport.packet_ring import REORDER_MAX


class Tally:
    """Told the number of each frame that should be stored, and that of each packet's frame; says which are missing."""

    def __init__(self) -> None:
        self._awaited: set[int] = set()
        self._early: set[int] = set()
        self._followed = self._newest = -1
        self._lacking: list[int] = []

    def take_up(self, stored: Iterable[int], seq: int) -> None:
        """After a restart. stored: the frames of the newest stored packets, in order. seq: the next one to follow."""
        before = {frame for frame in stored if frame >= 0}
        if not before:
            return
        self._newest = max(before)
        self._followed = seq - 1
        self._awaited = set(range(max(min(before), self._newest - REORDER_MAX), seq)) - before
        self._early = {frame for frame in before if frame >= seq}

    def follow(self, frame: int) -> None:
        """A frame that should be stored, in order."""
        self._followed = frame
        if frame in self._early:
            self._early.discard(frame)
        else:
            self._awaited.add(frame)

    def passed(self, frame: int, *, stored: bool) -> None:
        """A packet is dealt with, in the order of decoding. frame: negative where it is no frame's."""
        if frame < 0:
            return
        if not stored:
            self._lacking.append(frame)
        if frame in self._awaited:
            self._awaited.discard(frame)
        elif frame > self._followed:
            self._early.add(frame)
        self._newest = max(self._newest, frame)

    def lacking(self, *, at_end: bool) -> Sequence[int]:
        """Frames, not told before, that are not stored and will not be. at_end: no packet comes any more."""
        late = {frame for frame in self._awaited if at_end or frame < self._newest - REORDER_MAX}
        self._awaited -= late
        found, self._lacking = sorted({*self._lacking, *late}), []
        return found
