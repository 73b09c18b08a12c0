"""What a rule is: results in, events out, on the source's own clock."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.types import Event, FrameRef, Result


class Rule(Protocol):
    """One instance a source; it sees every Result of the source in order and uses only ``frame.time_s`` as time."""

    def update(self, result: Result) -> list[Event]: ...

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        """The stream has ended behind ``last``: ends what is still open, with ``reason``."""

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings, so that a restarted process goes on from here."""

    def restore(self, state: Any) -> None:
        """Takes up what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""
