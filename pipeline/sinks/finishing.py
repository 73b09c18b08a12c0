"""A fragmented recording becomes an ordinary MP4 where it stands: nothing is copied, whatever its size.

The index (``moov``) goes behind the last frame; then 16 bytes at the front turn everything between into one ``mdat``.
That single write is the moment: before it the file is the fragmented one that it was, behind it players find an
index, can seek at once, and see the metadata (ISO/IEC 14496-12, 8.2 and 8.7).
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from pipeline.sinks import fmp4
from pipeline.sinks.sink import CLOCK_HZ

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
USUAL_FRAME_TICKS = CLOCK_HZ // 25
"""How long a frame is said to last where no other is there to tell."""
_SINCE_1904_S = 2_082_844_800
_MOVIE_HZ = 1000
_LARGE = struct.Struct(">I4sQ")


def finish(fd: int, contents: fmp4.Contents, said: Mapping[str, Any]) -> None:
    """Makes an ordinary MP4 of the file behind ``fd``, which holds ``contents``; ``said`` goes into its metadata.

    Safe to be killed in, and to be called again. Raises ``OSError`` with the file as it was.
    """
    if contents.finished:
        return
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as data:
        movie = _movie(data, contents, said)
    try:
        written = 0
        while written < len(movie):
            written += os.pwrite(fd, movie[written:], contents.end + written)
        os.ftruncate(fd, contents.end + len(movie))
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, contents.end)
        raise
    os.pwrite(fd, _LARGE.pack(1, b"mdat", contents.end - fmp4.FREE_BYTE), fmp4.FREE_BYTE)
    os.fsync(fd)


def reopen(fd: int, contents: fmp4.Contents) -> None:
    """The way back, for a file that shall grow again; also takes away what a killed ``finish`` has left."""
    os.pwrite(fd, fmp4.FREE, fmp4.FREE_BYTE)
    os.ftruncate(fd, contents.end)


def metadata(contents: fmp4.Contents) -> dict[str, Any]:
    """When it was recorded, on the clocks of the world and of the place, and what the file said from the start."""
    first, last = contents.first, contents.last
    return {
        **contents.description,
        "start_utc": utc(first.wall_ns),
        "start_local": local(first.wall_ns),
        "end_utc": utc(last.wall_ns),
        "end_local": local(last.wall_ns),
        "frames": contents.count,
        "last_time_s": last.time_s,
    }


def utc(wall_ns: int) -> str:
    """RFC 3339 with milliseconds."""
    text = datetime.fromtimestamp(wall_ns // 1_000_000 / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def local(wall_ns: int) -> str:
    """RFC 3339 with this machine's offset."""
    return datetime.fromtimestamp(wall_ns // 1_000_000 / 1000, UTC).astimezone().isoformat(timespec="milliseconds")


def _movie(data: mmap.mmap, contents: fmp4.Contents, said: Mapping[str, Any]) -> bytes:
    duration, table = _sample_table(data, contents)
    whole_ms = min(duration * _MOVIE_HZ // CLOCK_HZ, 2**32 - 1)
    created = (contents.first.wall_ns // 1_000_000_000 + _SINCE_1904_S) % 2**32
    header = struct.pack(">4IIH10x", created, created, _MOVIE_HZ, whole_ms, 0x10000, 0x100)
    media = fmp4.box(
        b"mdia",
        _box64(b"mdhd", struct.pack(">QQIQHH", created, created, CLOCK_HZ, duration, 0x55C4, 0)),
        _copy(data, "trak", "mdia", "hdlr"),
        fmp4.box(b"minf", *(_copy(data, "trak", "mdia", "minf", kind) for kind in ("vmhd", "dinf")), table),
    )
    track = bytearray(_copy(data, "trak", "tkhd"))
    struct.pack_into(">I", track, 28, whole_ms)  # its place in a header of version 0
    return fmp4.box(
        b"moov",
        fmp4.full_box(b"mvhd", 0, header + fmp4.UNITY + struct.pack(">24xI", 2)),
        fmp4.box(b"trak", bytes(track), media),
        _user_data({b"\xa9cmt": json.dumps(said), b"\xa9day": utc(contents.first.wall_ns)}),
    )


def _sample_table(data: mmap.mmap, contents: fmp4.Contents) -> tuple[int, bytes]:
    """How long all frames last together, in ``CLOCK_HZ``, and where each lies."""
    stamps: list[int] = []
    sizes: list[int] = []
    offsets: list[int] = []
    keyframes: list[int] = []
    delays: list[int] = []
    for number, frame in enumerate(fmp4.frames(data, contents.begin), 1):
        stamps.append(max(frame.pts, stamps[-1] + 1) if stamps else frame.pts)
        sizes.append(frame.size)
        offsets.append(frame.offset)
        delays.append(frame.delay)
        if frame.keyframe:
            keyframes.append(number)
    durations = [after - before for before, after in pairwise(stamps)]
    durations.append(durations[-1] if durations else USUAL_FRAME_TICKS)
    table = fmp4.box(
        b"stbl",
        _copy(data, *fmp4.SAMPLE_TABLE, "stsd"),
        fmp4.full_box(b"stts", 0, _runs(durations)),
        fmp4.full_box(b"ctts", 0, _runs(delays)) if any(delays) else b"",
        fmp4.full_box(b"stss", 0, _table("I", keyframes)),
        fmp4.full_box(b"stsz", 0, struct.pack(">I", 0), _table("I", sizes)),
        fmp4.full_box(b"stsc", 0, struct.pack(">4I", 1, 1, 1, 1)),
        fmp4.full_box(b"co64", 0, _table("Q", offsets)),
    )
    return sum(durations), table


def _copy(data: mmap.mmap, *kinds: str) -> bytes:
    """A whole box out of the header that the file has had from the start."""
    movie = fmp4.movie_of(data)
    assert movie is not None
    place = fmp4.find(data, kinds, movie)
    assert place is not None
    return data[place.start - 8 : place.stop]


def _runs(durations: list[int]) -> bytes:
    runs = [(len(list(same)), duration) for duration, same in groupby(durations)]
    return struct.pack(">I", len(runs)) + b"".join(struct.pack(">II", *run) for run in runs)


def _table(size: str, values: list[int]) -> bytes:
    return struct.pack(f">I{len(values)}{size}", len(values), *values)


def _box64(kind: bytes, payload: bytes) -> bytes:
    """A full box of version 1, with 64-bit times."""
    return fmp4.box(kind, struct.pack(">I", 0x01000000), payload)


def _user_data(texts: Mapping[bytes, str]) -> bytes:
    """Metadata as iTunes has it, which players read."""
    items = [fmp4.box(kind, fmp4.box(b"data", struct.pack(">II", 1, 0), text.encode())) for kind, text in texts.items()]
    handler = fmp4.full_box(b"hdlr", 0, struct.pack(">I4s4s9x", 0, b"mdir", b"appl"))
    return fmp4.box(b"udta", fmp4.full_box(b"meta", 0, handler, fmp4.box(b"ilst", *items)))


def fsync(path: Path) -> None:
    """Waits until a file, or the names in a directory, are on the disk itself."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
