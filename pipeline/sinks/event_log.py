"""The event log of a site: numbers every event, keeps it, and outlives the runs (SQLite, WAL).

One process writes (``EventLog``, under a lock), any number read (``EventReader``) while it does, and when nobody does.
Numbers go up, are given in the transaction that stores the event, and never come twice, whatever is removed and whoever
is killed. A power failure may take the newest events, unless every one is synced; then the numbers go on behind the
highest that a cursor knows, so that no sink takes a new event for one that it has had.

How far a source's outbox has been taken is stored in the same transaction as the events from it, so that a process
killed at any moment neither loses an event nor numbers one twice.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pipeline.errors import ConfigError, Disconnected, RuntimeFailure, StartupError
from pipeline.sinks.cursor import highest
from pipeline.types import Event
from pipeline.ulid import ulid

FORMAT = 2
BUSY_TIMEOUT_S = 5.0
REMOVED_AT_ONCE = 1000
"""Events that one ``remove`` takes out at most: nobody waits long for it."""

_PASSING = frozenset(
    [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY]
)
"""What a disk says while it is full, away or mounted read-only; the caller tries again."""

_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE log (
    id TEXT NOT NULL, newest INTEGER NOT NULL, logged_ns INTEGER NOT NULL, run TEXT NOT NULL, run_after INTEGER NOT NULL
) STRICT;
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, step TEXT NOT NULL, source TEXT NOT NULL, kind TEXT NOT NULL,
    logged_ns INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE (id, step)
) STRICT;
CREATE INDEX logged ON events (logged_ns);
CREATE TABLE open (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE outboxes (source TEXT PRIMARY KEY, position INTEGER NOT NULL, lost INTEGER NOT NULL) STRICT;
PRAGMA user_version = {FORMAT};
"""
"""Begins a transaction that ends behind the row of ``log``: no reader sees the tables without it."""

log = logging.getLogger(__name__)


class EventLog:
    """The writing end. Everything is one transaction; what raises has changed nothing."""

    def __init__(
        self,
        path: Path,
        run_id: str,
        *,
        cursors: Path | None = None,
        sync_every_event: bool = False,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Opens or makes the log; the folder is made with mode 0700.

        With a ``run_id`` that the log does not know yet, the episodes that an earlier run left open end with reason
        ``restarted``, where they were last heard of. cursors: the folder of those of its sinks. sync_every_event: an
        event survives a power failure, not only the death of the process. Raises ``ConfigError`` where another kind of
        file stands there, ``StartupError`` where it cannot be written or another run writes it, ``Disconnected`` while
        there is no room.
        """
        self.path = path
        self._clock_ns = clock_ns
        self._lock = _lock(path)
        self._database: sqlite3.Connection | None = None
        try:
            self._database = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._prepare(self._database, sync_every_event)
            self._begin_run(self._database, run_id, cursors)
        except sqlite3.OperationalError as error:
            self.close()
            raise self._failure(error) from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise ConfigError(f"{path} is not an event log: {error}") from error
        except BaseException:
            self.close()
            raise

    def _prepare(self, database: sqlite3.Connection, sync_every_event: bool) -> None:
        check_format(database, self.path, made=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute(f"PRAGMA synchronous = {'FULL' if sync_every_event else 'NORMAL'}")
        if database.execute("PRAGMA user_version").fetchone()[0] == 0:
            database.executescript(_TABLES)
        database.execute(
            "INSERT INTO log SELECT ?, 0, 0, '', 0 WHERE NOT EXISTS (SELECT 1 FROM log)",
            (ulid(time.time_ns(), secrets.token_bytes(10)),),
        )
        if database.in_transaction:
            database.execute("COMMIT")
        row = database.execute("SELECT id, newest, logged_ns FROM log").fetchone()
        self.log_id, self.newest, self._logged_ns = str(row[0]), int(row[1]), int(row[2])

    def _begin_run(self, database: sqlite3.Connection, run_id: str, cursors: Path | None) -> None:
        run, self.run_after = database.execute("SELECT run, run_after FROM log").fetchone()
        if run == run_id:
            return
        known = highest(cursors, self.log_id) if cursors is not None else 0
        if known > self.newest:
            log.warning("event log %s: events %d to %d are lost, as after a power failure; the next one gets number %d",
                        self.path, self.newest + 1, known, known + 1)  # fmt: skip
            self.newest = known
        left = [
            msgspec.json.decode(body, type=Event) for (body,) in database.execute("SELECT body FROM open ORDER BY seq")
        ]
        ends = [
            msgspec.structs.replace(event, phase="end", t_end=event.t_update or event.t_start, reason="restarted")
            for event in left
        ]
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM outboxes")
        database.execute("UPDATE log SET run = ?, run_after = ?", (run_id, self.newest))
        self.run_after = self.newest
        newest = self._insert(database, ends)
        database.execute("COMMIT")
        self.newest = newest

    def append(self, events: Iterable[Event], *, outbox: tuple[str, int, int] | None = None) -> int:
        """Numbers what is new of ``events`` and stores it; returns how many that are.

        An event that is there already (same id, phase and number) gets no second number. outbox: a source, up to
        which of its events everything has been taken now, and how many it has lost so far.
        Raises ``Disconnected`` while there is no room, ``RuntimeFailure`` where trying again is no use.
        """
        assert self._database is not None
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                newest = self._insert(database, events)
                if outbox is not None:
                    database.execute("INSERT OR REPLACE INTO outboxes VALUES (?, ?, ?)", outbox)
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise self._failure(error) from error
        count, self.newest = newest - self.newest, newest
        return count

    def _insert(self, database: sqlite3.Connection, events: Iterable[Event]) -> int:
        """Returns the highest number behind it. A clock that is set back does not go back in the log."""
        newest, logged_ns = self.newest, max(self._clock_ns(), self._logged_ns)
        for event in events:
            body = msgspec.json.encode(event)
            step = f"update {event.number}" if event.phase == "update" else event.phase
            added = database.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id, step) DO NOTHING",
                (newest + 1, event.id, step, event.source, event.kind, logged_ns, body),
            )
            if not added.rowcount:
                continue
            newest += 1
            match event.phase:
                case "new":
                    database.execute("INSERT OR REPLACE INTO open VALUES (?, ?, ?)", (event.id, newest, body))
                case "update":
                    database.execute("UPDATE open SET seq = ?, body = ? WHERE id = ?", (newest, body, event.id))
                case "end":
                    database.execute("DELETE FROM open WHERE id = ?", (event.id,))
        database.execute("UPDATE log SET newest = ?, logged_ns = ?", (newest, logged_ns))
        return newest

    def outbox(self, source: str) -> tuple[int, int]:
        """How far the source's outbox has been taken in this run, and how many lost events the log knows of."""
        assert self._database is not None
        row = self._database.execute("SELECT position, lost FROM outboxes WHERE source = ?", (source,)).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def remove(self, *, up_to: int | None = None, before_ns: int | None = None) -> bool:
        """Takes out the oldest events: up to that number, or logged before that wall clock; the numbers go on.

        Returns whether there may be more to remove. Raises ``Disconnected`` or ``RuntimeFailure``.
        """
        assert self._database is not None
        try:
            removed = self._database.execute(
                """DELETE FROM events WHERE seq IN (SELECT seq FROM events
                    WHERE seq <= coalesce(?, seq) AND logged_ns < coalesce(?, logged_ns + 1) ORDER BY seq LIMIT ?)""",
                (up_to, before_ns, REMOVED_AT_ONCE),
            )
        except sqlite3.Error as error:
            raise self._failure(error) from error
        return removed.rowcount == REMOVED_AT_ONCE

    def _failure(self, error: sqlite3.Error) -> Disconnected | RuntimeFailure:
        text = f"event log {self.path}: {error}"
        passing = getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING
        return Disconnected(text) if passing else RuntimeFailure(text)

    def close(self) -> None:
        """Safe twice."""
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_format(database: sqlite3.Connection, path: Path, *, made: bool) -> None:
    """Raises ``ConfigError`` where that is no event log of this version; an empty one may become one (not ``made``)."""
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT:
        raise ConfigError(f"{path} was written by a newer version (its format is {version}, not {FORMAT})")
    empty = database.execute("SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)").fetchone()[0]
    if version < FORMAT and (made or not empty):
        raise ConfigError(f"{path} is not an event log of this version")


def _lock(path: Path) -> int:
    """A descriptor that holds the right to write; the kernel takes it back from whoever dies."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"event log {path}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise StartupError(f"event log {path}: another run is writing it") from error
    return descriptor
