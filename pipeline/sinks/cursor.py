"""How far a sink has come in the event log, in a file of its own."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from pipeline.errors import StartupError

_RECORD = re.compile(rb"([0-9A-Z]{26}) (\d{20})\n")


class Cursor:
    """One record, overwritten in place: that is one write, whole for whoever is killed, and needs no room on a full
    disk.
    """

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; raises ``StartupError``."""
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartupError(f"{path}: cannot be written: {error.strerror}") from error

    def read(self, log_id: str) -> int | None:
        """The number of the newest event of that log that was delivered; None where it is not known."""
        record = _RECORD.fullmatch(os.pread(self._descriptor, 64, 0))
        return int(record[2]) if record and record[1] == log_id.encode() else None

    def write(self, log_id: str, seq: int) -> None:
        # made on a full disk, it has no room yet: then a death costs repetitions, and no event
        with contextlib.suppress(OSError):
            os.pwrite(self._descriptor, f"{log_id} {seq:020}\n".encode(), 0)

    def close(self) -> None:
        """Safe twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def highest(folder: Path, log_id: str) -> int:
    """The highest number of that log that a cursor in ``folder`` knows; 0 where none does."""
    numbers = [0]
    for path in folder.glob("*"):
        with contextlib.closing(Cursor(path)) as cursor:
            numbers.append(cursor.read(log_id) or 0)
    return max(numbers)
