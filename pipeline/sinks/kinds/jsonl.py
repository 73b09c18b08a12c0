"""``kind: jsonl``: one event a line, appended to a file."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pipeline.errors import ConfigError, Disconnected
from pipeline.sinks.sink import Accepts, SinkConfig, SinkContext

_BLOCK = 1 << 20

log = logging.getLogger(__name__)


class Config(SinkConfig):
    """path: a file in a directory that exists. What is in it stays: new events come behind those of earlier runs,
    which can be told by their ``log_id``.
    """

    accepts: ClassVar[Accepts] = "events"

    path: Path

    def claims(self) -> frozenset[tuple[str, str]]:
        return frozenset([("file", os.path.realpath(self.path))])


class JsonLines:
    """Every line goes to the file in one write; a line that a killed process left unfinished is removed at ``open``."""

    accepts: ClassVar[Accepts] = "events"

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._path = config.path
        self._name = context.name
        self._file: io.FileIO | None = None

    def open(self, log_id: str) -> int:
        """Returns the number of the newest event of that log in the file; 0 where there is none.

        Raises ``ConfigError`` where the file cannot be written, is in use, or holds something else.
        """
        file = self._take()
        try:
            return _newest(file, log_id)
        except OSError as error:
            raise self._refusal(error) from error

    def write(self, event: dict[str, Any]) -> None:
        """Raises ``Disconnected`` where there is no room, with the file ending in a whole line.

        A file that was moved (logrotate) or removed is begun anew under its name.
        """
        try:
            file = self._file if self._file is not None and self._in_place(self._file) else self._take()
        except ConfigError as error:
            self.close()
            raise Disconnected(str(error).removeprefix(f"sink {self._name}: ")) from error
        line = msgspec.json.encode(event) + b"\n"
        end = os.fstat(file.fileno()).st_size
        try:
            written = 0
            while written < len(line):
                written += os.write(file.fileno(), line[written:])
        except OSError as error:
            os.ftruncate(file.fileno(), end)
            raise Disconnected(f"cannot write events to {self._path}: {error.strerror}") from error

    def beat(self, seq: int) -> None: ...

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _take(self) -> io.FileIO:
        """The file, made where it is missing, locked and ending in a whole line; raises ``ConfigError``."""
        self.close()
        try:
            # not truncated, and read from the start: what is there is looked at before anything is appended
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            file = self._file = io.FileIO(fd, "r+")
            self._lock(file)
            self._check(file)
            self._repair(file)
        except OSError as error:
            raise self._refusal(error) from error
        return file

    def _refusal(self, error: OSError) -> ConfigError:
        return ConfigError(f"sink {self._name}: cannot write events to {self._path}: {error.strerror}")

    def _in_place(self, file: io.FileIO) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(file.fileno()))
        except OSError:
            return False

    def _lock(self, file: io.FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"sink {self._name}: another run is writing events to {self._path}") from error

    def _check(self, file: io.FileIO) -> None:
        """A video, or whatever else was named by mistake, is not touched."""
        end = os.fstat(file.fileno()).st_size
        long_line = end - _find_back(file.fileno(), b"\n", end) > _BLOCK
        if end and (long_line or os.pread(file.fileno(), 1, 0) != b"{"):
            raise ConfigError(f"sink {self._name}: {self._path} holds something else than events; name another file")

    def _repair(self, file: io.FileIO) -> None:
        end = os.fstat(file.fileno()).st_size
        start = _find_back(file.fileno(), b"\n", end) + 1
        torn = os.pread(file.fileno(), end - start, start)
        if not torn:
            return
        try:
            json.loads(torn)
        except ValueError:
            log.warning("%s: removed an unfinished last line of %d bytes", self._path, len(torn))
            os.ftruncate(file.fileno(), start)
        else:
            os.write(file.fileno(), b"\n")


def _newest(file: io.FileIO, log_id: str) -> int:
    """The highest number of that log; its lines are in order, so the last of them has it."""
    fd = file.fileno()
    end = os.fstat(fd).st_size
    needle = f'"log_id":"{log_id}"'.encode()
    while (found := _find_back(fd, needle, end)) >= 0:
        start = _find_back(fd, b"\n", found) + 1
        line = os.pread(fd, _BLOCK, start).partition(b"\n")[0]
        try:
            event = json.loads(line)
            if event["log_id"] == log_id:
                return int(event["seq"])
        except (ValueError, KeyError, TypeError):
            log.debug("%s: a line that is no event mentions the log", file.name)
        end = start
    return 0


def _find_back(fd: int, needle: bytes, end: int) -> int:
    """Where ``needle`` stands last before ``end``; -1 where it does not. Holds one block in memory."""
    while end > 0:
        start = max(0, end - _BLOCK)
        found = os.pread(fd, end - start, start).rfind(needle)
        if found >= 0:
            return start + found
        if start == 0:
            return -1
        end = start + len(needle) - 1
    return -1


def create(config: Config, context: SinkContext) -> JsonLines:
    return JsonLines(config, context)
