"""How long recordings and evidence are kept, and what happens when the disk is full."""

from __future__ import annotations

import contextlib
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from pipeline.errors import DiskFull, PipelineError, RuntimeFailure
from pipeline.sinks.archive import Archive, Kept
from pipeline.sinks.finishing import NO_ROOM, utc
from pipeline.sinks.sink import SinkConfig, SinkContext
from pipeline.types import Event
from pipeline.ulid import ulid

TOLD_AGAIN_NS = 3600 * 10**9
"""A disk that stays full is said to be full this often."""
T = TypeVar("T")

log = logging.getLogger(__name__)


class StorageConfig(SinkConfig):
    """keep_days, max_gb: what was stored longer ago, and the oldest of what is more, goes; 10**9 bytes, of all sources,
    and looked at whenever a file is whole.

    when_full: what goes when the disk has no room: the oldest, or this sink.
    """

    keep_days: Annotated[float, Field(gt=0)] | None = None
    max_gb: Annotated[float, Field(gt=0)] | None = None
    when_full: Literal["stop", "drop_oldest"] = "stop"


def is_full(error: OSError | sqlite3.Error) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


class Storage:
    """One sink's hold on a directory. The slow things (indexes, fsync, removing) are done in order by one thread."""

    def __init__(self, directory: Path, config: StorageConfig, context: SinkContext) -> None:
        self.directory = directory
        self._config = config
        self._context = context
        self._archive: Archive | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._told_ns: int | None = None
        self._renewals = self._gone_on_after = 0

    def open(self) -> None:
        """Raises ``OSError``, or what ``Archive`` raises."""
        self.close()
        self._archive = self._make()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=f"storage-{self._context.name}")
        self.do(self._retire)

    def _make(self) -> Archive:
        self.directory.mkdir(parents=True, exist_ok=True)
        trial = self.directory / f".{self._context.name}-{secrets.token_hex(4)}.trial"
        trial.touch()
        trial.unlink()
        return Archive(self.directory)

    def do(self, work: Callable[[Archive], T], *, room_at_s: float | None = None) -> Future[T | None]:
        """Has ``work`` done behind everything asked for before; None where that fails, which is logged.

        room_at_s: where the disk is full, the oldest goes, if it may, and ``work`` is tried again; the source's clock,
        for the event that tells of it.
        """
        assert self._worker is not None
        return self._worker.submit(self._try, work, room_at_s)

    def _try(self, work: Callable[[Archive], T], room_at_s: float | None = None) -> T | None:
        while True:
            try:
                return work(self._current())
            except (OSError, sqlite3.Error) as error:
                if room_at_s is None or not self._drop_oldest(error, room_at_s):
                    log.error("sink %s: %s: %s", self._context.name, self.directory, error)
                    return None
            except PipelineError as error:
                log.error("sink %s: %s", self._context.name, error)
                return None

    def _current(self) -> Archive:
        """Called by the thread: the index, made anew where the directory was removed or is another disk now."""
        assert self._archive is not None
        before = self._archive
        if before.is_gone:
            self._archive = self._make()
            count, nbytes = 0, 0
            with contextlib.suppress(sqlite3.Error):
                count, nbytes = before.count()
            before.close()
            self._renewals += 1
            log.error(
                "sink %s: %s was removed, or is another disk now; it is begun anew, without %d files of %.1f MB that "
                "its index listed",
                self._context.name, self.directory, count, nbytes / 1e6,
            )  # fmt: skip
        return self._archive

    def _drop_oldest(self, error: OSError | sqlite3.Error, stream_s: float) -> bool:
        """Called by the thread: whether there is room again, after what failed."""
        archive = self._archive
        assert archive is not None
        if not is_full(error) or self._config.when_full != "drop_oldest" or not (gone := archive.drop_oldest()):
            return False
        for path in gone:
            log.debug("removed %s", self.directory / path)
        self._tell("storage_full", "the oldest recordings are removed", stream_s)
        return True

    def enter(self, _: Archive, kept: Kept) -> None:
        """Called by the thread: a full disk does not keep a file out of the index where the oldest may go."""
        self._try(lambda archive: archive.add(kept), kept.last_time_s)

    def retire(self) -> None:
        """What is too old or too much goes, soon."""
        self.do(self._retire)

    def _retire(self, archive: Archive) -> None:
        config = self._config
        before_ns = time.time_ns() - round(config.keep_days * 86400e9) if config.keep_days else None
        removed = archive.retire(before_ns=before_ns, bytes_max=round(config.max_gb * 1e9) if config.max_gb else None)
        for path in removed:
            log.debug("removed %s", self.directory / path)

    def make_room(self, error: OSError, stream_s: float) -> None:
        """After a write that failed: returns when it is worth trying again, having removed the oldest, or made the
        directory anew that somebody has removed.

        Tells the event log. Raises ``RuntimeFailure`` where this sink must stop, ``DiskFull`` where for good.
        """
        if self.do(lambda _: self._drop_oldest(error, stream_s)).result():
            return
        if isinstance(error, FileNotFoundError) and self._gone_on_after != self._renewals:
            self._gone_on_after = self._renewals
            return
        full = is_full(error)
        reason = "the disk is full" if full else str(error.strerror)
        self._told_ns = None
        self._tell("recording_stopped", reason, stream_s)
        raise (DiskFull if full else RuntimeFailure)(
            f"sink {self._context.name}: cannot write in {self.directory}: {error.strerror}; what was recorded before "
            "is kept"
        ) from error

    def _tell(self, kind: str, reason: str, stream_s: float) -> None:
        now_ns = time.time_ns()
        if self._told_ns is not None and now_ns - self._told_ns < TOLD_AGAIN_NS:
            return
        self._told_ns = now_ns
        log.warning("sink %s: %s: %s", self._context.name, self.directory, reason)
        event = Event(
            id=ulid(now_ns, secrets.token_bytes(10)), phase="end", kind=kind, source=self._context.source_id or "",
            track=None, t_start=utc(now_ns), t_end=utc(now_ns), stream_s=stream_s, confidence=1.0, reason=reason,
        )  # fmt: skip
        self._context.tell(event)

    def close(self) -> None:
        """Waits for what is still to be done. Safe twice."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            self._worker = None
        if self._archive is not None:
            self._archive.close()
            self._archive = None
