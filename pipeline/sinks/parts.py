"""The parts of a recording while it is made: ``out.mp4`` is written as ``out.part-1.mp4``, ``out.part-2.mp4``, …

There is a new part for each encoder and each process, and every part says in itself which run it belongs to: so a
process that is killed at any moment leaves behind all that its successor needs to know.
"""

from __future__ import annotations

import fcntl
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.sinks import fmp4
from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream

USUAL_FRAME_TICKS = CLOCK_HZ // 25
"""How long a frame is said to last where no other is there to tell."""


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

    def cut_from(self, time_s: float) -> Part | None:
        """Drops the frames from ``time_s`` on. Returns what is left: None where that is nothing, and no file either."""
        if self.last_time_s < time_s:
            return self
        end = self.contents.begin
        with fmp4.mapped(self.path) as data:
            for frame in fmp4.frames(data, self.contents.begin):
                if frame.time_s >= time_s:
                    break
                end = frame.offset + frame.size
        os.truncate(self.path, end)
        part = read_part(self.path, self.number)
        if part is None:
            self.path.unlink()
        return part


class PartWriter:
    """Appends frames to a new part, each with a single write: what ``append`` has returned for survives kill -9.

    The file is locked until ``close``, so that nobody takes it for one that was left behind.
    """

    def __init__(self, path: Path, stream: Stream, run_id: str, number: int) -> None:
        """Creates nothing yet: a part without a frame never stands on the disk."""
        self._path = path
        self._before = fmp4.header(stream, {"run": run_id, "part": number})
        self._fd: int | None = None
        self._end = 0
        self._count = 0
        self._first_pts = 0
        self._last_pts = 0

    def append(self, packet: Packet) -> None:
        """Raises ``OSError``; the file then ends with the frame before."""
        if self._fd is None:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._first_pts, self._last_pts = packet.pts, packet.pts - USUAL_FRAME_TICKS
        since_last = packet.pts - self._last_pts
        data = self._before + fmp4.fragment(self._count + 1, packet, packet.pts - self._first_pts, since_last)
        try:
            _write_all(self._fd, data)
        except OSError:
            os.ftruncate(self._fd, self._end)
            if not self._count:
                self._path.unlink()
            raise
        self._end += len(data)
        self._count += 1
        self._last_pts = packet.pts
        self._before = b""

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


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
    """The part that stands there; None where there is no whole frame in it, or something else has that name."""
    contents = fmp4.read(path)
    return Part(path, number, contents) if contents else None


def claim(path: Path, number: int) -> tuple[int, Part | None]:
    """Takes a part that an earlier process has left: (file descriptor that keeps it locked, the part).

    What stands half-written at its end is cut off. A part in which no frame has become whole is removed, and
    something else of that name left alone (both None). Raises ``BlockingIOError`` where the part is being written.
    """
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part = read_part(path, number)
        if part is not None:
            os.ftruncate(fd, part.contents.end)
        elif fmp4.is_beginning(os.pread(fd, 256, 0)):
            path.unlink()
    except OSError:
        os.close(fd)
        raise
    return fd, part
