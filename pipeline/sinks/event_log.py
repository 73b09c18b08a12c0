"""The one event log of a run: numbers every event, keeps it, and remembers who has had what (SQLite, WAL).

It lies in shared memory, so that what every sink has had is removed, but for the newest events: an event that comes
again is known by them, and they hold the highest number, so that none is given twice.

How far a source's outbox has been taken is stored in the same transaction as the events from it, so that a process
killed at any moment neither loses an event nor numbers one twice.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.errors import ConfigError, RuntimeFailure, StartupError
from pipeline.sinks.schema import to_json
from pipeline.types import Event
from pipeline.ulid import ulid

_VERSION = 1
_BUSY_TIMEOUT_S = 5.0
KEPT_EVENTS = 10_000
PRUNE_EVERY = 1_000
"""Events: what is no longer needed is removed after so many new ones."""

_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS log (id TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, step TEXT NOT NULL, body BLOB NOT NULL, UNIQUE (id, step)
) STRICT;
CREATE TABLE IF NOT EXISTS positions (source TEXT PRIMARY KEY, position INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
PRAGMA user_version = {_VERSION};
COMMIT;
"""


class EventLog:
    """Append-only; one process writes, any number may read. Events are handed out in the JSON form of ``schema``."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the log.

        Raises ``ConfigError`` where another kind of file stands there, ``StartupError`` where it cannot be written.
        """
        self._path = path
        self._since_pruned = 0
        try:
            self._database = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        except sqlite3.OperationalError as error:
            raise StartupError(f"event log {path}: {error}") from error
        try:
            self.log_id = self._prepare()
        except sqlite3.OperationalError as error:
            self._database.close()
            raise StartupError(f"event log {path}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise ConfigError(f"{path} is not an event log: {error}") from error
        except ConfigError:
            self._database.close()
            raise

    def _prepare(self) -> str:
        database = self._database
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version > _VERSION:
            raise ConfigError(f"{self._path} was written by a newer version (its format is {version}, not {_VERSION})")
        database.execute("PRAGMA journal_mode = WAL")
        # a killed process loses nothing; a power failure may lose the last events, never the order
        database.execute("PRAGMA synchronous = NORMAL")
        if version < _VERSION:
            database.executescript(_TABLES)
        database.execute(
            "INSERT INTO log SELECT ? WHERE NOT EXISTS (SELECT 1 FROM log)",
            (ulid(time.time_ns(), secrets.token_bytes(10)),),
        )
        return str(database.execute("SELECT id FROM log").fetchone()[0])

    def append(self, source: str, events: Sequence[Event], *, position: int) -> list[dict[str, Any]]:
        """Numbers what is new of ``events`` and notes that ``source``'s outbox is taken up to ``position``.

        An event that is there already (same id and phase, and for updates the same moment) gets no second number.
        Returns the new ones. Raises ``RuntimeFailure`` with nothing taken.
        """
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                numbered = [row for event in events if (row := self._add(event)) is not None]
                database.execute("INSERT OR REPLACE INTO positions VALUES (?, ?)", (source, position))
                due = self._since_pruned + len(numbered) >= PRUNE_EVERY
                if due:
                    self._prune()
                database.execute("COMMIT")
                self._since_pruned = 0 if due else self._since_pruned + len(numbered)
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise RuntimeFailure(f"event log {self._path}: {error}") from error
        return numbered

    def _add(self, event: Event) -> dict[str, Any] | None:
        step = f"update {event.stream_s!r}" if event.phase == "update" else event.phase
        added = self._database.execute(
            "INSERT INTO events (id, step, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (event.id, step, msgspec.json.encode(event)),
        )
        if not added.rowcount:
            return None
        assert added.lastrowid is not None
        return to_json(event, log_id=self.log_id, seq=added.lastrowid)

    def _prune(self) -> None:
        self._database.execute(
            """DELETE FROM events WHERE seq <= min(
                coalesce((SELECT min(seq) FROM cursors), 0), (SELECT max(seq) FROM events) - ?)""",
            (KEPT_EVENTS,),
        )

    def after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """At most ``limit`` events behind number ``seq``, in order; those that every sink has had may be gone."""
        rows = self._database.execute("SELECT seq, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))
        return [to_json(msgspec.json.decode(body, type=Event), log_id=self.log_id, seq=number) for number, body in rows]

    def position(self, source: str) -> int:
        """How far the source's outbox has been taken; 0 at first."""
        return self._number("SELECT position FROM positions WHERE source = ?", source)

    def cursor(self, sink: str) -> int:
        """The number of the newest event that ``sink`` has had; 0 at first."""
        return self._number("SELECT seq FROM cursors WHERE sink = ?", sink)

    def set_cursor(self, sink: str, seq: int) -> None:
        """Raises ``RuntimeFailure``."""
        try:
            self._database.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (sink, seq))
        except sqlite3.Error as error:
            raise RuntimeFailure(f"event log {self._path}: {error}") from error

    def _number(self, query: str, name: str) -> int:
        row = self._database.execute(query, (name,)).fetchone()
        return int(row[0]) if row else 0

    def close(self) -> None:
        """Safe twice."""
        self._database.close()
