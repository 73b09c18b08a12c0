"""What a rule is: results in, events out, on the source's own clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from pydantic import Field

from pipeline.errors import ConfigError
from pipeline.plugins import PluginConfig
from pipeline.schedule import Schedule
from pipeline.types import Event, FrameRef, Result


class RuleConfig(PluginConfig):
    """What every rule of this package can be told.

    zones: names of zones of the pipeline; it then looks at each of them by itself, and at nothing else.
    schedule: when it looks; None: when the pipeline says.
    """

    zones: tuple[str, ...] = Field(default=(), max_length=32)
    schedule: Schedule | None = None


def class_of(kind: str, label: str, labels: Sequence[str]) -> int:
    """The class that a rule of ``kind`` looks for; raises ``ConfigError`` where the model's ``labels`` lack it."""
    if label not in labels:
        raise ConfigError(f"rule {kind}: the model has no class {label!r}; it has: {', '.join(labels)}")
    return list(labels).index(label)


class Rule(Protocol):
    """One instance a source and zone; it sees the Results of the source in order, each with the faces of its zone.

    It uses only ``frame.time_s`` as time. Zones, schedules and outages are dealt with outside (``watch.py``).
    """

    def update(self, result: Result) -> list[Event]: ...

    def finish(self, last: FrameRef, reason: str) -> list[Event]:
        """The stream has ended, or is interrupted, behind ``last``: ends what is still open, with ``reason``."""

    def resume(self, away_s: float) -> None:
        """The source was lost and is back; in the last ``away_s`` nobody could look, so they count for nothing."""

    def snapshot(self) -> Any:
        """All state as plain lists, dicts, numbers and strings, so that a restarted process goes on from here."""

    def restore(self, state: Any) -> None:
        """Takes up what ``snapshot`` gave; raises ``ValueError`` where it does not fit."""
