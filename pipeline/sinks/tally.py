"""Which frames are not in a recording of packets that come in another order, and a little later, than frames do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pipeline.transport.packet_ring import REORDER_MAX

BEHIND_MAX = 250
"""So many frames behind the one that is followed, no packet is awaited any more, whatever has come since."""


class Tally:
    """Told the number of each frame that should be stored, and that of each packet's frame; says which are missing."""

    def __init__(self) -> None:
        self._awaited: set[int] = set()
        self._early: set[int] = set()
        self._followed = self._newest = self._given_up = -1
        self._lacking: list[int] = []

    def take_up(self, stored: Iterable[int], seq: int) -> bool:
        """After a restart or an outage. stored: the frames of the newest stored packets, where it is known which those
        are. seq: the next one to follow; those before it were not followed since. Returns whether it is known which of
        them are stored.
        """
        before = {frame for frame in stored if frame >= 0}
        known = bool(before) or self._followed >= 0
        if self._followed >= 0:
            self._awaited.update(range(self._followed + 1, seq))
        if before:
            self._newest = max(before)
            self._awaited.update(range(max(min(before), self._newest - REORDER_MAX), seq))
        self._awaited -= before
        self._early = {frame for frame in before if frame >= seq}
        self._followed = seq - 1
        return known

    def follow(self, frame: int) -> None:
        """A frame that should be stored, in order, and with it any between that were not followed."""
        first = self._followed + 1 if self._followed >= 0 else frame
        self._awaited.update(set(range(first, frame + 1)) - self._early)
        self._early = {each for each in self._early if each > frame}
        self._followed = frame

    def passed(self, frame: int, *, stored: bool) -> None:
        """A packet is dealt with, in the order of decoding. frame: negative where it is no frame's."""
        if frame < 0:
            return
        if not stored and (frame > self._given_up or frame in self._awaited):
            self._lacking.append(frame)
        if frame in self._awaited:
            self._awaited.discard(frame)
        elif frame > self._followed:
            self._early.add(frame)
        self._newest = max(self._newest, frame)

    def lacking(self, *, at_end: bool) -> Sequence[int]:
        """Frames, not told before, that are not stored and will not be. at_end: no packet comes any more."""
        first = max(self._newest - REORDER_MAX, self._followed - BEHIND_MAX)
        late = {frame for frame in self._awaited if at_end or frame < first}
        self._given_up = max(self._given_up, *late) if late else self._given_up
        self._awaited -= late
        found, self._lacking = sorted({*self._lacking, *late}), []
        return found
