"""A recording that lasts: segments of a few minutes, each a file of its own, kept as long as the site wants.

``<day>/<source>-<UTC>-<local time>.mp4``; while it grows it ends in ``.part.mp4``, plays, and survives kill -9. A
segment begins with a keyframe that the encoder was asked for, at a whole multiple of its length on the clock; what a
killed process has left is finished by the next one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import ClassVar, NamedTuple

from pipeline.errors import ConfigError
from pipeline.sinks import fmp4
from pipeline.sinks.archive import DAY, SEGMENT, Archive, Gap, Kept
from pipeline.sinks.captions import SUFFIX
from pipeline.sinks.finishing import fsync
from pipeline.sinks.parts import Found, PartWriter, claim, complete, read_part
from pipeline.sinks.recovery import utc_name
from pipeline.sinks.sink import Accepts, Packet, SinkContext, Stream, Wish
from pipeline.sinks.storage import Storage

GAP_MIN_S = 0.5
"""A shorter stretch without a frame is not listed; the run's report counts single frames."""
SHORTEST = 0.1
"""Of a segment's length: what is left to the next multiple is added to the following one where it is less."""
NEVER_S = float("-inf")
PART, WHOLE = ".part.mp4", ".mp4"

log = logging.getLogger(__name__)


class Growing(NamedTuple):
    """A segment that is being written. begun_s: the source's clock at its first frame."""

    path: Path
    begun_s: float


class Segments:
    """Stores each packet at once; ``index.sqlite`` lists a segment when it is whole, and the gaps between them."""

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = True

    def __init__(self, storage: Storage, segment_s: float, context: SinkContext) -> None:
        self._storage = storage
        self._segment_s = segment_s
        self._context = context
        self._source = context.source_id or context.name
        self._run = f"{context.run_id}.{context.name}"
        self._reset()

    def _reset(self) -> None:
        self._stream: Stream | None = None
        self._found: Found | None = None
        self._writer: PartWriter | None = None
        self._cut_s = self._begun_s = NEVER_S
        self._done_s = NEVER_S
        self._last: Packet | None = None
        self._working: list[Future[None]] = []

    def open(self) -> float | None:
        """Raises ``ConfigError`` where nothing can be recorded there."""
        self.close()
        self._reset()
        try:
            self._storage.open()
            found = list(self._left_behind())
        except OSError as error:
            raise ConfigError(
                f"sink {self._context.name}: cannot record to {self._storage.directory}: {error.strerror}"
            ) from error
        self._storage.do(self._compare)
        stored_s = self._storage.do(lambda archive: archive.last_time_s(self._source, self._run)).result()
        own = sorted((each for each in found if each.part.run_id == self._run), key=lambda each: each.part.last_time_s)
        own_s = [each.part.last_time_s for each in own]
        self._done_s = max([*own_s, NEVER_S if stored_s is None else stored_s])
        self._found = own[-1] if own else None
        for each in found:
            if each is not self._found:
                self._storage.do(lambda archive, each=each: self._complete(archive, each))  # type: ignore[misc]
        return None if self._done_s == NEVER_S else self._done_s

    def start(self, stream: Stream) -> None:
        self._end_segment()
        self._stream = stream

    def wish(self, time_s: float) -> Wish:
        if time_s <= self._done_s:
            return Wish.NOTHING
        return Wish.KEYFRAME if self._writer is None or time_s >= self._cut_s else Wish.PACKET

    def write(self, packet: Packet) -> float | None:
        """Raises ``RuntimeFailure`` where the disk is gone, or full and nothing may be removed."""
        if packet.time_s <= self._done_s:  # another sink was behind when the last process died
            return self._done_s
        if self.cuts_at(packet):
            self._end_segment()
        self._list_gap(packet)
        while True:
            try:
                self._writer = self._writer or self._begin(packet)
                self._writer.append(packet)
                break
            except OSError as error:
                self.make_room(error, packet.time_s)
        self._last = packet
        return packet.time_s

    def cuts_at(self, packet: Packet) -> bool:
        """Whether the packet begins another segment."""
        return packet.keyframe and packet.time_s >= self._cut_s

    def make_room(self, error: OSError, time_s: float) -> None:
        """See ``Storage.make_room``."""
        self._storage.make_room(error, time_s)
        self._storage.do(self._compare).result()  # while there is room for that

    @property
    def growing(self) -> Growing | None:
        return Growing(self._writer.path, self._begun_s) if self._writer else None

    def finish(self) -> None:
        self._end_segment()
        found, self._found = self._found, None
        if found is not None:
            self._working.append(self._storage.do(lambda archive: self._complete(archive, found)))
        for future in self._working:
            future.result()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        if self._found is not None:
            os.close(self._found.fd)
            self._found = None
        self._storage.close()

    # -- segments

    def _begin(self, packet: Packet) -> PartWriter:
        assert self._stream is not None, "start comes before write"
        said = {"run": self._run, "part": 1, "source": self._source}
        found, self._found = self._found, None
        if found is not None:
            if self._goes_on(found, packet):
                return PartWriter(found.part.path, self._stream, said, found)
            self._storage.do(lambda archive: self._complete(archive, found))
        self._begun_s, self._cut_s = packet.time_s, self._cut_behind(packet.time_s, packet.wall_ns)
        path = self._free_path(packet.wall_ns)
        path.parent.mkdir(exist_ok=True)
        return PartWriter(path, self._stream, said)

    def _cut_behind(self, time_s: float, wall_ns: int) -> float:
        """Where a segment that begins there ends: at a multiple of its length on the wall clock."""
        left_s = self._segment_s - wall_ns / 1e9 % self._segment_s
        return time_s + left_s + (self._segment_s if left_s < SHORTEST * self._segment_s else 0)

    def _goes_on(self, found: Found, packet: Packet) -> bool:
        """Whether the part that an earlier process of this run has left is not full yet."""
        assert self._stream is not None
        first = found.part.contents.first
        self._begun_s, self._cut_s = first.time_s, self._cut_behind(first.time_s, first.wall_ns)
        same = found.part.contents.codec == fmp4.codec(self._stream)
        return same and (packet.time_s < self._cut_s or not packet.keyframe)

    def _free_path(self, wall_ns: int) -> Path:
        at = datetime.fromtimestamp(wall_ns // 10**9, UTC)
        stem = f"{self._source}-{utc_name(wall_ns)}-{at.astimezone():%Y%m%dT%H%M%S%z}"
        day = self._storage.directory / at.strftime(DAY)
        stems = chain([stem], map(f"{stem}-{{}}".format, count(2)))
        return next(
            day / f"{name}{PART}"
            for name in stems
            if not (day / f"{name}{PART}").exists() and not (day / f"{name}{WHOLE}").exists()
        )

    def _end_segment(self) -> None:
        writer, self._writer = self._writer, None
        fd = writer.release() if writer else None
        if writer is not None and fd is not None:
            path = writer.path
            self._working = [future for future in self._working if not future.done()]
            self._working.append(self._storage.do(lambda archive: self._complete_path(archive, path, fd)))
            self._storage.retire()

    def _complete_path(self, archive: Archive, path: Path, fd: int) -> None:
        part = None
        try:
            part = read_part(path, 1)
        finally:
            if part is None:
                os.close(fd)
        if part is not None:
            self._complete(archive, Found(fd, part))

    def _complete(self, archive: Archive, found: Found) -> None:
        """An index for players, the final name, an entry in the archive: in this order, each safe to be done again."""
        with contextlib.closing(os.fdopen(found.fd, "rb")):
            complete(found)
            path = found.part.path
            whole = path.with_name(path.name.removesuffix(PART) + WHOLE)
            with contextlib.suppress(FileNotFoundError):
                path.with_suffix(SUFFIX).replace(whole.with_suffix(SUFFIX))
            path.replace(whole)
            fsync(whole.parent)
        kept = self._kept(whole, found.part.contents)
        self._storage.enter(archive, kept)

    def _kept(self, path: Path, contents: fmp4.Contents) -> Kept:
        first, last = contents.first, contents.last
        return Kept(
            str(path.relative_to(self._storage.directory)), "segment", self._source, first.wall_ns, last.wall_ns,
            path.stat().st_size, contents.count, str(contents.description.get("run")), last.time_s,
        )  # fmt: skip

    # -- what others have left

    def _paths(self, suffix: str) -> Iterator[Path]:
        name = re.compile(re.escape(self._source) + SEGMENT + re.escape(suffix))
        return (path for path in self._storage.directory.glob(f"*/*{suffix}") if name.fullmatch(path.name))

    def _left_behind(self) -> Iterator[Found]:
        for path in self._paths(PART):
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another run is writing it
                if (found := claim(path, 1)) is not None:
                    yield found

    def _compare(self, archive: Archive) -> None:
        """What is there goes into the index, and what is gone out of it: after a death between the two, a full disk or
        the loss of the index.
        """
        archive.forget_missing(self._source)
        for path in self._paths(WHOLE):
            if archive.file(str(path.relative_to(self._storage.directory))) is None:
                with contextlib.suppress(ValueError):  # damaged
                    if (contents := fmp4.read(path)) is not None:
                        archive.add(self._kept(path, contents))

    # -- gaps

    def _list_gap(self, packet: Packet) -> None:
        last = self._last or (self._found.part.contents.last if self._found else None)
        if last is None:
            self._storage.do(lambda archive: self._list_first_gap(archive, packet))
        elif packet.time_s - last.time_s >= GAP_MIN_S:
            lost = packet.seq - last.seq - 1
            reason = "missing" if lost else "source_lost"
            gap = Gap(self._source, last.wall_ns, packet.wall_ns, reason, lost or None)
            self._storage.do(lambda archive: archive.add_gap(gap))

    def _list_first_gap(self, archive: Archive, packet: Packet) -> None:
        newest = archive.newest(self._source)
        if newest is not None and packet.wall_ns - newest.end_ns >= GAP_MIN_S * 1e9:
            reason = "missing" if newest.run == self._run else "not_running"
            archive.add_gap(Gap(self._source, newest.end_ns, packet.wall_ns, reason))
