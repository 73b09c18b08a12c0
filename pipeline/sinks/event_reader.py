"""Reads an event log: beside the process that writes it, and when nobody does."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import ConfigError, Disconnected
from pipeline.sinks.event_log import BUSY_TIMEOUT_S, check_format
from pipeline.sinks.schema import to_json

_LASTING = frozenset([sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR])
"""What SQLite says of a file that is no event log (the last: it has other tables); everything else passes."""

_MAX = (1 << 63) - 1


class Bounds(NamedTuple):
    """What a log holds: numbers ``oldest`` to ``newest``. An empty one: ``oldest`` is ``newest + 1``."""

    oldest: int
    newest: int


class Gap(NamedTuple):
    """What stands in the place of events that cannot be had any more.

    reason: ``retention`` (they were removed) or ``other_log`` (the numbers asked for are another log's).
    log_id, oldest: the log that answers, and the first number it has.
    """

    reason: str
    log_id: str
    oldest: int


class EventReader:
    """A log seen from outside; belongs to one thread. Events are in the JSON form of ``schema``.

    Everything raises ``Disconnected`` where the log cannot be read now.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``ConfigError`` where there is no event log."""
        self.path = path
        if not path.is_file():
            raise ConfigError(f"there is no event log at {path}")
        try:
            self._database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)
        except sqlite3.Error as error:
            raise Disconnected(f"event log {path}: {error}") from error
        try:
            check_format(self._database, path, made=True)
            row = self._database.execute("SELECT id FROM log").fetchone()
            if row is None:
                raise ConfigError(f"there is no event log at {path} yet")
            self.log_id: str = row[0]
        except sqlite3.Error as error:
            self._database.close()
            if error.sqlite_errorcode & 0xFF in _LASTING:
                raise ConfigError(f"{path} is not an event log that can be read: {error}") from error
            raise Disconnected(f"event log {path}: {error}") from error
        except ConfigError:
            self._database.close()
            raise

    @property
    def bounds(self) -> Bounds:
        [(oldest, newest)] = self._rows("SELECT (SELECT min(seq) FROM events), newest FROM log")
        return Bounds(newest + 1 if oldest is None else oldest, newest)

    def after(
        self,
        seq: int,
        limit: int,
        *,
        sources: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """At most ``limit`` events behind number ``seq``, oldest first; of those sources and kinds alone, if given."""
        return self._select("seq > ?", "seq", seq, limit, sources, kinds)

    def before(
        self,
        seq: int | None,
        limit: int,
        *,
        sources: Collection[str] | None = None,
        kinds: Collection[str] | None = None,
    ) -> list[dict[str, Any]]:
        """At most ``limit`` events before number ``seq`` (None: the newest), newest first."""
        return self._select("seq < ?", "seq DESC", _MAX if seq is None else seq, limit, sources, kinds)

    def episode(self, event_id: str) -> list[dict[str, Any]]:
        """Every event of one episode, newest first."""
        rows = self._rows("SELECT seq, body FROM events WHERE id = ? ORDER BY seq DESC", event_id)
        return [self._json(number, body) for number, body in rows]

    def _select(
        self,
        where: str,
        order: str,
        seq: int,
        limit: int,
        sources: Collection[str] | None,
        kinds: Collection[str] | None,
    ) -> list[dict[str, Any]]:
        values: list[Any] = [_fitting(seq)]
        for column, wanted in (("source", sources), ("kind", kinds)):
            if wanted is not None:
                where += f" AND {column} IN ({', '.join('?' * len(wanted))})"
                values += wanted
        query = f"SELECT seq, body FROM events WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608  no value is in it
        return [self._json(number, body) for number, body in self._rows(query, *values, limit)]

    def cursor_since(self, wall_ns: int) -> int:
        """The number behind which everything was logged at that wall clock or later."""
        [(first,)] = self._rows("SELECT min(seq) FROM events WHERE logged_ns >= ?", _fitting(wall_ns))
        return self.bounds.newest if first is None else int(first) - 1

    def gap(self, log_id: str | None, seq: int) -> Gap | None:
        """What keeps a reader that has had everything up to ``seq`` of that log from going on; None: nothing.

        log_id: None where the reader does not know. It goes on at the gap's ``oldest``.
        """
        oldest, newest = self.bounds
        if (log_id is not None and log_id != self.log_id) or seq > newest:
            return Gap("other_log", self.log_id, oldest)
        return Gap("retention", self.log_id, oldest) if seq + 1 < oldest else None

    def open_episodes(self) -> list[dict[str, Any]]:
        """The newest event of every episode that is open."""
        return [self._json(number, body) for number, body in self._rows("SELECT seq, body FROM open ORDER BY seq")]

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise Disconnected(f"event log {self.path}: {error}") from error

    def _json(self, seq: int, body: bytes) -> dict[str, Any]:
        return to_json(body, log_id=self.log_id, seq=seq)

    def close(self) -> None:
        """Safe twice."""
        self._database.close()


def _fitting(number: int) -> int:
    """SQLite takes no number that is longer; the nearest that it takes finds the same."""
    return min(max(number, -_MAX), _MAX)
