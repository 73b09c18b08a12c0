"""Events that do not come from inference (evidence is ready, the disk is full) on their way into the event log.

Each is a file in the run directory, under its name only when it is whole; the events stage takes it into the log and
only then removes it. The log knows an event that comes again, so a death between any two steps loses and doubles none.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pipeline.sinks.event_log import EventLog
from pipeline.types import Event

BATCH = 256

log = logging.getLogger(__name__)


class Spool:
    """One source's end: where its annotator's sinks tell their events."""

    def __init__(self, directory: Path, source_id: str) -> None:
        self._directory = directory
        self._source = source_id

    def tell(self, event: Event) -> None:
        """What this has returned for comes into the log, also after kill -9. Raises ``OSError``."""
        name = f"{time.time_ns():020}-{self._source}-{event.id}-{event.phase}-{event.number}"
        new = self._directory / f".{name}"
        new.write_bytes(msgspec.json.encode(event))
        new.replace(self._directory / f"{name}.json")

    def end(self) -> None:
        """Nothing will follow from this source."""
        (self._directory / f"{self._source}.end").touch()


class SpoolInlet:
    """The events stage's end. ended: of each source, whether its annotator is gone for good."""

    waker = None

    def __init__(self, directory: Path, ended: dict[str, Callable[[], bool]]) -> None:
        self._directory = directory
        self._ended = ended

    @property
    def finished(self) -> bool:
        return all((self._directory / f"{source}.end").exists() or gone() for source, gone in self._ended.items())

    def take(self, event_log: EventLog) -> int:
        """Returns how many it has moved; raises ``Disconnected`` while the log has no room."""
        files = sorted(self._directory.glob("*.json"))[:BATCH]
        if files:
            event_log.append(list(_events(files)))
            for path in files:
                path.unlink()
        return len(files)


def _events(files: Iterable[Path]) -> Iterable[Event]:
    for path in files:
        with contextlib.suppress(FileNotFoundError):
            try:
                yield msgspec.json.decode(path.read_bytes(), type=Event)
            except msgspec.MsgspecError as error:
                log.warning("%s is not an event: %s", path, error)
