"""Which frames a recording lacks: a number a line in the run directory, and their count in the ring's head.

An annotator notes a frame before it passes it; one that is restarted comes to some frames again and takes up what is
noted first.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.transport.head import Head

NAMED_MAX = 10_000
"""So many are told by number; of more only the count is known."""


class MissingFrames:
    """The list of one source."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._noted: set[int] = set()
        self._path: Path = head.directory / f"{head.source_id}.missing"

    def numbers(self) -> set[int]:
        """The first ``NAMED_MAX`` missing frames."""
        try:
            return {int(line) for line in self._path.read_text().split()}
        except FileNotFoundError:
            return set()

    def take_up(self) -> None:
        """For an annotator that begins: nothing is noted or counted twice."""
        self._noted = self.numbers()
        if len(self._noted) < NAMED_MAX:
            self._head.missing = len(self._noted)

    def note(self, seq: int) -> None:
        """Frame ``seq`` will not be in the recording."""
        if seq in self._noted:
            return
        if self._head.missing < NAMED_MAX:
            self._noted.add(seq)
            with self._path.open("a") as file:
                file.write(f"{seq}\n")
        self._head.missing += 1
