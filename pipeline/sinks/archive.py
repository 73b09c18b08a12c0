"""What a directory of recordings or evidence holds: one SQLite file (``index.sqlite``) beside them.

A file is entered when it is whole and under its name. Several processes share a directory, so everything that removes
files asks the index and not its own memory. The index can be lost: whoever opens the directory enters what it finds.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks.captions import SUFFIX

FILE = "index.sqlite"
DAY = "%Y-%m-%d"
"""Files lie in a folder for each day (UTC)."""
SEGMENT = r"-\d{8}T\d{6}Z-\d{8}T\d{6}[+-]\d{4}(-\d+)?"
"""What stands in a segment's name between its source and the suffix."""
KeptKind = Literal["segment", "clip", "snapshot", "crop"]
_BUSY_S = 10.0
_OURS = re.compile(rf"[a-z0-9_-]+{SEGMENT}\.(mp4|ass)|[0-7][0-9A-HJKMNP-TV-Z]{{25}}-(clip\.mp4|(snapshot|face)\.jpg)")
_FOLDER = re.compile(r"\d{4}-\d{2}-\d{2}")
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, kind TEXT NOT NULL, source TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    bytes INTEGER NOT NULL, frames INTEGER NOT NULL, run TEXT NOT NULL, last_time_s REAL NOT NULL, episode TEXT,
    sha256 TEXT, stored_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS files_by_time ON files (source, start_ns);
CREATE INDEX IF NOT EXISTS files_by_age ON files (stored_ns, end_ns);
CREATE TABLE IF NOT EXISTS gaps (
    source TEXT NOT NULL, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL, reason TEXT NOT NULL, frames INTEGER,
    PRIMARY KEY (source, start_ns)
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """One whole file. path: below the directory. start_ns, end_ns: wall clock of its first and last frame.

    run, last_time_s: the run that made it, and that run's clock at its last frame. episode: the event that it shows.
    """

    path: str
    kind: KeptKind
    source: str
    start_ns: int
    end_ns: int
    bytes: int
    frames: int
    run: str
    last_time_s: float
    episode: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Gap:
    """A stretch that is not recorded, on the wall clock.

    reason: ``not_running``, ``source_lost`` (it gave nothing), ``missing`` (frames were gone before they could be
    recorded). frames: how many are missing, where that is known.
    """

    source: str
    start_ns: int
    end_ns: int
    reason: str
    frames: int | None = None


_COLUMNS = ", ".join(field.name for field in fields(Kept))


class Archive:
    """One directory and its index. Every method may raise ``sqlite3.Error``; the files themselves are not touched by
    that.
    """

    def __init__(self, directory: Path, *, read_only: bool = False) -> None:
        """Raises ``ConfigError`` where something else has the index's name, ``RuntimeFailure`` where it fails."""
        self.directory = directory
        self._path = path = directory / FILE
        target = f"{path.absolute().as_uri()}?mode=ro" if read_only else str(path)
        try:
            self._database = sqlite3.connect(
                target, uri=read_only, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
            )
            if not read_only:
                self._database.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise RuntimeFailure(f"{path}: {error}") from error  # locked, or the disk: it may be over soon
            raise ConfigError(f"{path} is not an index of recordings: {error}") from error
        self._identity = _identity(path)

    @property
    def is_gone(self) -> bool:
        """Whether the index is no longer where it was opened: removed with the directory, or under another disk."""
        return _identity(self._path) != self._identity

    def count(self) -> tuple[int, int]:
        """How many files it lists, and their bytes."""
        return self._database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM files").fetchone()  # type: ignore[no-any-return]

    def add(self, kept: Kept) -> None:
        """Its age counts from when the file was written: what it shows may be as old as the source's video."""
        try:
            stored_ns = (self.directory / kept.path).stat().st_mtime_ns
        except FileNotFoundError:  # it is about to get its name
            stored_ns = time.time_ns()
        marks = ", ".join("?" * len(fields(Kept)))
        self._database.execute(
            f"INSERT OR REPLACE INTO files ({_COLUMNS}, stored_ns) VALUES ({marks}, ?)",  # noqa: S608
            (*astuple(kept), stored_ns),
        )

    def add_gap(self, gap: Gap) -> None:
        """A gap that begins where one is known already is the same one."""
        self._database.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?, ?)", astuple(gap))

    def files(
        self, *, source: str | None = None, kind: str | None = None, since_ns: int = 0, until_ns: int | None = None
    ) -> Iterator[Kept]:
        """Those that touch that time, the oldest first."""
        rows = self._database.execute(
            f"SELECT {_COLUMNS} FROM files WHERE end_ns >= ? AND (? IS NULL OR start_ns <= ?)"  # noqa: S608
            " AND (? IS NULL OR source = ?) AND (? IS NULL OR kind = ?) ORDER BY start_ns, path",
            (since_ns, until_ns, until_ns, source, source, kind, kind),
        )
        return (Kept(*row) for row in rows)

    def file(self, path: str) -> Kept | None:
        row = self._database.execute(f"SELECT {_COLUMNS} FROM files WHERE path = ?", (path,)).fetchone()  # noqa: S608
        return Kept(*row) if row else None

    def episode(self, episode: str) -> list[Kept]:
        """The evidence of one event."""
        rows = self._database.execute(f"SELECT {_COLUMNS} FROM files WHERE episode = ?", (episode,))  # noqa: S608
        return [Kept(*row) for row in rows]

    def gaps(self, source: str | None = None) -> list[Gap]:
        rows = self._database.execute(
            "SELECT * FROM gaps WHERE ? IS NULL OR source = ? ORDER BY start_ns", (source, source)
        )
        return [Gap(*row) for row in rows]

    def newest(self, source: str, kind: KeptKind = "segment") -> Kept | None:
        row = self._database.execute(
            f"SELECT {_COLUMNS} FROM files WHERE source = ? AND kind = ? ORDER BY end_ns DESC LIMIT 1",  # noqa: S608
            (source, kind),
        ).fetchone()
        return Kept(*row) if row else None

    def last_time_s(self, source: str, run: str) -> float | None:
        """That run's clock at the newest frame of its segments."""
        found: float | None = self._database.execute(
            "SELECT max(last_time_s) FROM files WHERE source = ? AND run = ? AND kind = 'segment'", (source, run)
        ).fetchone()[0]
        return found

    # -- what is removed

    def retire(self, *, before_ns: int | None = None, bytes_max: int | None = None) -> list[str]:
        """Removes what was stored before then, and the oldest until the rest is small enough; returns what went."""
        removed: list[str] = []
        while (oldest := self._oldest()) is not None:
            kept, stored_ns = oldest
            too_old = before_ns is not None and stored_ns < before_ns
            if not too_old and (bytes_max is None or self._total() <= bytes_max):
                break
            removed += self._remove(kept)
        return removed

    def forget_missing(self, source: str) -> None:
        for kept in list(self.files(source=source)):
            if not (self.directory / kept.path).exists():
                self._database.execute("DELETE FROM files WHERE path = ?", (kept.path,))

    def drop_oldest(self) -> list[str]:
        """Removes the oldest recording, or all evidence of the oldest event; returns what went, nothing of nothing.

        On a full disk the index itself may fail: what it does not list yet goes as well, when nothing else is there.
        """
        with contextlib.suppress(sqlite3.Error):
            while (oldest := self._oldest()) is not None:
                if removed := self._remove(oldest[0]):
                    return removed
        for path in sorted(self._whole(), key=lambda path: path.stat().st_mtime_ns)[:1]:
            path.unlink()
            return [str(path.relative_to(self.directory))]
        return []

    def _whole(self) -> Iterator[Path]:
        """What lies there under a name that only this package gives; whatever else is there is somebody's own."""
        for path in self.directory.glob("*/*"):
            if _FOLDER.fullmatch(path.parent.name) and _OURS.fullmatch(path.name) and path.is_file():
                yield path

    def _oldest(self) -> tuple[Kept, int] | None:
        """What was stored first, and when."""
        row = self._database.execute(
            f"SELECT stored_ns, {_COLUMNS} FROM files ORDER BY stored_ns, end_ns, path LIMIT 1"  # noqa: S608
        ).fetchone()
        return (Kept(*row[1:]), row[0]) if row else None

    def _total(self) -> int:
        return self.count()[1]

    def _remove(self, kept: Kept) -> list[str]:
        paths = [file.path for file in self.episode(kept.episode)] if kept.episode else [kept.path]
        removed = [path for path in paths if (self.directory / path).exists()]
        for path in paths:
            (self.directory / path).unlink(missing_ok=True)
            (self.directory / path).with_suffix(SUFFIX).unlink(missing_ok=True)
            self._database.execute("DELETE FROM files WHERE path = ?", (path,))
            day = (self.directory / path).parent
            if day.name != datetime.now(UTC).strftime(DAY):  # in today's, somebody may be about to begin a file
                with contextlib.suppress(OSError):  # others are still in it
                    day.rmdir()
        self._database.execute("DELETE FROM gaps WHERE end_ns < (SELECT min(start_ns) FROM files)")
        return removed

    def close(self) -> None:
        """Safe twice."""
        self._database.close()


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
