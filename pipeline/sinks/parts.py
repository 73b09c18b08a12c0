"""The parts of a recording while it is made: ``out.mp4`` is written as ``out.part-1.mp4``, ``out.part-2.mp4``, …

There is a new part where the size of the picture changes, and every part says in itself which run it belongs to: so a
process that is killed at any moment leaves behind all that its successor needs to go on in it.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.sinks import fmp4
from pipeline.sinks.finishing import NO_ROOM, USUAL_FRAME_TICKS, finish, metadata, reopen
from pipeline.sinks.sink import Packet, Stream

EMPTY_MAX = 1 << 20
"""Bytes: a part that is longer and seems to hold no frame is damaged, and nothing to remove."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """One part with at least one whole frame."""

    path: Path
    number: int
    contents: fmp4.Contents = field(repr=False)

    @property
    def run_id(self) -> str:
        return str(self.contents.description.get("run"))

    @property
    def last_time_s(self) -> float:
        return self.contents.last.time_s


@dataclass(frozen=True, slots=True)
class Found:
    """A part that an earlier process has left. fd: keeps it locked until it is closed."""

    fd: int
    part: Part


class PartWriter:
    """Appends frames to a part, each with a single write: what ``append`` has returned for survives kill -9.

    The file is locked until ``close``, so that nobody takes it for one that was left behind.
    """

    def __init__(self, path: Path, stream: Stream, said: Mapping[str, Any], found: Found | None = None) -> None:
        """Creates nothing yet: a part without a frame never stands on the disk.

        said: the part's description. found: the part at ``path`` that an earlier process has left, to go on in.
        """
        self.path = path
        self._before = fmp4.header(stream, dict(said))
        self._fd: int | None = None
        self._count = self.size = 0
        self._first_pts = self._last_pts = 0
        if found is not None:
            self._take_over(found.fd, found.part.contents)

    def _take_over(self, fd: int, contents: fmp4.Contents) -> None:
        reopen(fd, contents)
        os.lseek(fd, contents.end, os.SEEK_SET)
        self._before, self._fd, self._count, self.size = b"", fd, contents.count, contents.end
        self._first_pts, self._last_pts = contents.first.pts, contents.last.pts

    def append(self, packet: Packet) -> None:
        """Raises ``OSError``; the file then ends with the frame before."""
        if self._fd is None:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._first_pts, self._last_pts = packet.pts, packet.pts - USUAL_FRAME_TICKS
        pts = max(packet.pts, self._last_pts + 1)
        data = self._before + fmp4.fragment(self._count + 1, packet, pts - self._first_pts, pts - self._last_pts)
        try:
            _write_all(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
            if not self._count:
                self.path.unlink()
                os.close(self._fd)
                self._fd = None
            raise
        self.size += len(data)
        self._count += 1
        self._last_pts = pts
        self._before = b""

    def release(self) -> int | None:
        """Ends writing; the descriptor keeps the part locked until it is closed. None where there is no part."""
        fd, self._fd = self._fd, None
        return fd

    def close(self) -> None:
        if (fd := self.release()) is not None:
            os.close(fd)


def complete(found: Found) -> None:
    """Makes an ordinary MP4 of a part, where the disk has room for its index; it stays fragmented where it has not.

    Raises ``OSError`` for any other failure.
    """
    try:
        finish(found.fd, found.part.contents, metadata(found.part.contents))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        log.warning("%s: no room for an index; it plays, but players cannot seek in it at once", found.part.path)


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):  # a disk that is nearly full takes a piece first
        written += os.write(fd, memoryview(data)[written:])


def part_path(target: Path, number: int) -> Path:
    return target.with_name(f"{target.stem}.part-{number}{target.suffix}")


def part_paths(target: Path) -> dict[int, Path]:
    """Whatever has the name of a part of ``target``, by number, in order."""
    pattern = re.compile(rf"{re.escape(target.stem)}\.part-(\d{{1,9}}){re.escape(target.suffix)}")
    matches = ((pattern.fullmatch(path.name), path) for path in target.parent.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def read_part(path: Path, number: int) -> Part | None:
    """The part that stands there; None where there is no whole frame in it, or something else has that name.

    Raises ``OSError``, and ``ValueError`` where it is damaged.
    """
    contents = fmp4.read(path)
    return Part(path, number, contents) if contents else None


def claim(path: Path, number: int) -> Found | None:
    """Takes a part that an earlier process has left.

    What stands half-written at its end is cut off. A part in which no frame has become whole is removed, and something
    else of that name, or what is damaged, left alone (all None). Raises ``BlockingIOError`` where the part is being
    written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part = read_part(path, number)
        if part is not None:
            if not part.contents.finished:
                reopen(fd, part.contents)
            return Found(fd, part)
        if fmp4.is_beginning(os.pread(fd, 256, 0)) and os.fstat(fd).st_size <= EMPTY_MAX:
            path.unlink()
    except ValueError as error:
        log.warning("%s: is damaged and left alone: %s", path, error)
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None
