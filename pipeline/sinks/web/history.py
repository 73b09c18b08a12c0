"""What the page shows of the past: events out of their log, and the evidence that belongs to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ConfigError
from pipeline.sinks.event_reader import EventReader, Gap

LIMIT = 500
T = TypeVar("T")

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_KEPT = ("crop", "snapshot", "clip")


class BadQuery(ValueError):
    """A parameter of a request is wrong; its text says which and what would be right."""


class History:
    """Opens the log whenever it is asked: that costs little, and a log that comes late or anew is found by itself.

    Every method may be called in any thread, and raises ``Disconnected`` where the log cannot be read now.
    """

    def __init__(self, log: Path | None, evidence: Sequence[Path]) -> None:
        """evidence: the folders of the configuration."""
        self._log = log
        self._evidence = evidence

    def _read(self, read: Callable[[EventReader], T], otherwise: T) -> T:
        if self._log is None:
            return otherwise
        try:
            reader = EventReader(self._log)
        except ConfigError:  # nothing has been logged yet
            return otherwise
        try:
            return read(reader)
        finally:
            reader.close()

    def position(self) -> tuple[str, int]:
        """The log and its newest number; ("", 0) where there is no log yet."""
        return self._read(lambda reader: (reader.log_id, reader.bounds.newest), ("", 0))

    def since(self, log_id: str, seq: int) -> tuple[Gap | None, list[dict[str, Any]]]:
        """What came behind number ``seq`` of that log, oldest first, and what keeps it from being everything."""

        def read(reader: EventReader) -> tuple[Gap | None, list[dict[str, Any]]]:
            gap = reader.gap(log_id or None, seq)
            return gap, reader.after(gap.oldest - 1 if gap else seq, LIMIT)

        nothing: tuple[Gap | None, list[dict[str, Any]]] = (None, [])
        return self._read(read, nothing)

    def events(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Newest first. query: source, kind (comma-separated), since, until (RFC 3339), before (a number), limit.

        Raises ``BadQuery``.
        """
        limit = _number(query, "limit", 100, 1, LIMIT)
        before = _number(query, "before", None, 1, 1 << 62)
        since_ns, until_ns = _moment(query, "since"), _moment(query, "until")
        sources, kinds = _names(query, "source"), _names(query, "kind")

        def read(reader: EventReader) -> list[dict[str, Any]]:
            end = before
            if until_ns is not None:
                last = reader.cursor_since(until_ns + 1)
                end = last + 1 if end is None else min(end, last + 1)
            first = reader.cursor_since(since_ns) if since_ns is not None else 0
            found = reader.before(end, limit, sources=sources, kinds=kinds)
            return [event for event in found if event["seq"] > first]

        return self._read(read, [])

    def clips(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Evidence that is there, newest first: one object a file. Raises ``BadQuery``."""
        return [
            {
                "event": event["id"],
                "kind": item["kind"],
                "source": event["source"],
                "t_start": event["t_start"],
                "bytes": item["bytes"],
                "url": f"/api/v1/clips/{event['id']}/{item['kind']}",
            }
            for event in self.events({**query, "limit": str(LIMIT)})
            for item in event.get("evidence") or ()
            if item["kind"] in _KEPT
        ]

    def evidence(self, event_id: str, kind: str) -> Path | None:
        """The file that shows an episode: named by the log, and inside a folder of the configuration.

        Touches the disk with the evidence.
        """
        if not _ULID.fullmatch(event_id) or kind not in _KEPT:
            return None

        def read(reader: EventReader) -> str | None:
            for event in reader.episode(event_id):
                for item in event.get("evidence") or ():
                    if item["kind"] == kind:
                        return str(item["path"])
            return None

        named = self._read(read, None)
        return self._inside(named) if named else None

    def _inside(self, named: str) -> Path | None:
        path = Path(named).resolve()
        return (
            path if path.is_file() and any(path.is_relative_to(folder.resolve()) for folder in self._evidence) else None
        )


def _number(query: Mapping[str, str], name: str, default: Any, lowest: int, highest: int) -> Any:
    text = query.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,19}", text) or not lowest <= int(text) <= highest:
        raise BadQuery(f"{name}: {text[:40]!r} must be a number from {lowest} to {highest}")
    return int(text)


def _names(query: Mapping[str, str], name: str) -> list[str] | None:
    text = query.get(name)
    if not text:
        return None
    names = text.split(",")
    if len(names) > 64 or not all(re.fullmatch(r"[a-z0-9][a-z0-9_-]*", one) for one in names):
        raise BadQuery(
            f"{name}: {text[:40]!r} must be names of lower-case letters, digits, _ and -, with commas between"
        )
    return names


def _moment(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError("it has no offset from UTC")
        return round(moment.timestamp() * 1e9)
    except (ValueError, OverflowError) as error:
        raise BadQuery(f"{name}: {text[:40]!r} must be a time like 2026-11-22T08:30:00Z") from error
