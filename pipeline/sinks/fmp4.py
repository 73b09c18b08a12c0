"""Fragmented MP4 for one track of H.264 or H.265, a frame a fragment (ISO/IEC 14496-12, -15), as bytes.

A file is ``header`` and then ``fragment`` after ``fragment``; it plays at any time, whatever fragment was the last to
get there whole. Private ``uuid`` boxes, which players skip, make it describe itself: whose it is, and for every frame
its number and its exact clocks. One frame a fragment instead of one group of pictures costs 0.2 kB a frame, and a frame
is stored as soon as its bytes are. ``finishing`` makes an ordinary MP4 of such a file where it stands.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.sinks import colour
from pipeline.sinks.nal import avc_configuration, hevc_configuration, nal_units
from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream

_FILE_ID = bytes.fromhex("8b3e5a0c6f1d4e0a9c2f71d04b9e6a11")
_FRAME_ID = bytes.fromhex("8b3e5a0c6f1d4e0a9c2f71d04b9e6a12")
_FTYP = struct.pack(">I4s4sI16s", 32, b"ftyp", b"iso5", 512, b"iso5iso6mp41avc1")
FREE = struct.pack(">I4s8x", 16, b"free")
"""Stands behind ``ftyp`` and makes room for the head of the one large ``mdat`` that a finished file has."""
FREE_BYTE = len(_FTYP)
_NOTE_BYTE = FREE_BYTE + len(FREE)
UNITY = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_SYNC, _NO_SYNC = 0x02000000, 0x01010000
_DURATION_MAX = 2**32 - 1

# box size, "uuid", id, bytes of the whole fragment, keyframe, seq, pts, time_s, wall_ns, delay
_NOTE = struct.Struct(">I4s16sI?QqdQi")
# moof, mfhd, traf, tfhd, tfdt, trun with one sample
_MOOF = struct.Struct(">I4s I4sII I4s I4sII I4sIQ I4sIIIIIIi")
_BOX = struct.Struct(">I4s")


class Frame(NamedTuple):
    """One stored frame: where its bytes (length-prefixed NAL units) lie in the file, and what is known of it."""

    offset: int
    size: int
    keyframe: bool
    seq: int
    pts: int
    time_s: float
    wall_ns: int
    delay: int


@dataclass(frozen=True, slots=True)
class Contents:
    """What stands in a file: its description, its codec (``stsd``), where the whole frames begin and end, how many
    there are (at least one), and the first and the last of them. finished: it is an ordinary MP4 by now.
    """

    description: dict[str, Any]
    codec: bytes
    begin: int
    end: int
    count: int
    first: Frame
    last: Frame
    finished: bool


def header(stream: Stream, description: dict[str, Any]) -> bytes:
    """Everything before the first fragment; ``description`` is anything that JSON can hold."""
    movie = struct.pack(">4IIH10x", 0, 0, CLOCK_HZ, 0, 0x10000, 0x100) + UNITY + struct.pack(">24xI", 2)
    media = box(b"mdia", _media_header(), _handler(), box(b"minf", _video_header(), _sample_table(stream)))
    return b"".join(
        (
            _FTYP,
            FREE,
            box(b"uuid", _FILE_ID, json.dumps(description).encode()),
            box(
                b"moov",
                full_box(b"mvhd", 0, movie),
                box(b"trak", _track_header(stream), media),
                box(b"mvex", full_box(b"trex", 0, struct.pack(">5I", 1, 1, 0, 0, 0))),
            ),
        )
    )


def fragment(number: int, packet: Packet, decode_time: int, duration: int) -> bytes:
    """One frame, ready to be appended. number: from 1. decode_time, duration: in ``CLOCK_HZ``."""
    units = nal_units(packet.data)
    size = 4 * len(units) + sum(map(len, units))
    whole = _NOTE.size + _MOOF.size + _BOX.size + size
    clocks = (packet.seq, packet.pts, packet.time_s, packet.wall_ns, packet.delay)
    parts = [
        _NOTE.pack(_NOTE.size, b"uuid", _FRAME_ID, whole, packet.keyframe, *clocks),
        _moof(number, decode_time, min(duration, _DURATION_MAX), size, packet),
        _BOX.pack(_BOX.size + size, b"mdat"),
    ]
    for unit in units:
        parts += (len(unit).to_bytes(4, "big"), unit)
    return b"".join(parts)


def is_beginning(data: bytes) -> bool:
    """Whether ``data`` could be the start of a file that ``header`` began, however short."""
    start = _FTYP + FREE + data[_NOTE_BYTE : _NOTE_BYTE + 4] + b"uuid" + _FILE_ID
    return start.startswith(data[: len(start)])


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap]:
    """The bytes of a file that is not empty. Raises ``OSError`` or, where it is empty, ``ValueError``."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


def read(path: Path) -> Contents | None:
    """What ``path`` holds up to its last whole frame; None where it is no such file or has no whole frame.

    Raises ``OSError``, and ``ValueError`` where what it says of itself is damaged.
    """
    if path.stat().st_size < _NOTE_BYTE + 24:
        return None
    with mapped(path) as data:
        return _read(data)


def description(path: Path) -> dict[str, Any] | None:
    """What a file says of itself, without looking at its frames; None where it is no such file.

    Raises ``OSError``, and ``ValueError`` where it is damaged.
    """
    if path.stat().st_size < _NOTE_BYTE + 24:
        return None
    with mapped(path) as data:
        note = _note(data)
        return _description(data, note) if note else None


def _description(data: mmap.mmap, note: slice) -> dict[str, Any]:
    said = json.loads(data[note.start + 16 : note.stop])
    if not isinstance(said, dict):
        raise ValueError("a description that is none")
    return said


def find(data: mmap.mmap, kinds: Sequence[str], within: slice) -> slice | None:
    """The inside of the box to which the kinds lead from outside to inside; None where there is none, or not whole."""
    place: slice | None = within
    for kind in kinds:
        place = _find(data, kind.encode(), place.start, place.stop) if place else None
    return place


SAMPLE_TABLE = ("trak", "mdia", "minf", "stbl")


def movie_of(data: mmap.mmap) -> slice | None:
    """The inside of the ``moov`` with which a file begins."""
    note = _note(data)
    return _find(data, b"moov", note.stop, len(data)) if note else None


def _note(data: mmap.mmap) -> slice | None:
    note = _find(data, b"uuid", _NOTE_BYTE, len(data))
    ours = data[:FREE_BYTE] == _FTYP and data[FREE_BYTE + 4 : FREE_BYTE + 8] in (b"free", b"mdat")
    return note if ours and note and data[note.start : note.start + 16] == _FILE_ID else None


def _read(data: mmap.mmap) -> Contents | None:
    note, movie = _note(data), movie_of(data)
    place = find(data, (*SAMPLE_TABLE, "stsd"), movie) if movie else None
    if note is None or movie is None or place is None:
        return None
    codec = data[place.start : place.stop]
    first = last = next(frames(data, movie.stop), None)
    count = 0
    for last in frames(data, movie.stop):  # noqa: B007  the last one is what is looked for
        count += 1
    if first is None or last is None:
        return None
    said = _description(data, note)
    finished = data[FREE_BYTE + 4 : FREE_BYTE + 8] == b"mdat"
    return Contents(said, codec, movie.stop, last.offset + last.size, count, first, last, finished)


def frames(data: mmap.mmap, position: int) -> Iterator[Frame]:
    """The whole frames from the fragment at ``position`` on."""
    before_data = _NOTE.size + _MOOF.size + _BOX.size
    while position + before_data < len(data):
        _, kind, identity, whole, keyframe, *clocks = _NOTE.unpack_from(data, position)
        if (kind, identity) != (b"uuid", _FRAME_ID) or whole <= before_data or position + whole > len(data):
            return
        yield Frame(position + before_data, whole - before_data, keyframe, *clocks)
        position += whole


def _find(data: mmap.mmap, wanted: bytes, position: int, end: int) -> slice | None:
    """The inside of the first box of that kind between ``position`` and ``end``; None where it is not whole."""
    while position + _BOX.size <= end:
        size, kind = _BOX.unpack_from(data, position)
        if size < _BOX.size or position + size > end:
            return None
        if kind == wanted:
            return slice(position + _BOX.size, position + size)
        position += size
    return None


def box(kind: bytes, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return _BOX.pack(_BOX.size + len(payload), kind) + payload


def full_box(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return box(kind, struct.pack(">I", flags), *parts)


def _track_header(stream: Stream) -> bytes:
    width, height = stream.coded_size
    horizontal, vertical = stream.layout.sample_aspect
    size = struct.pack(">II", min(round(width * horizontal / vertical * 65536), 2**32 - 1), height << 16)
    return full_box(b"tkhd", 3, struct.pack(">5I16x", 0, 0, 1, 0, 0), UNITY, size)


def _media_header() -> bytes:
    return full_box(b"mdhd", 0, struct.pack(">4IHH", 0, 0, CLOCK_HZ, 0, 0x55C4, 0))


def _handler() -> bytes:
    return full_box(b"hdlr", 0, struct.pack(">I4s12x", 0, b"vide"), b"video\0")


def _video_header() -> bytes:
    here = full_box(b"url ", 1)
    data = box(b"dinf", full_box(b"dref", 0, struct.pack(">I", 1), here))
    return full_box(b"vmhd", 1, bytes(8)) + data


def _sample_table(stream: Stream) -> bytes:
    empty = struct.pack(">I", 0)
    return box(
        b"stbl",
        box(b"stsd", codec(stream)),
        full_box(b"stts", 0, empty),
        full_box(b"stsc", 0, empty),
        full_box(b"stsz", 0, empty, empty),
        full_box(b"stco", 0, empty),
    )


def codec(stream: Stream) -> bytes:
    """The inside of ``stsd``: what must be the same for packets to go into one track (``Contents.codec``)."""
    return struct.pack(">II", 0, 1) + _sample_entry(stream)


def _sample_entry(stream: Stream) -> bytes:
    layout = stream.layout
    visual = struct.pack(">6xH16xHHIIIH32xHh", 1, *stream.coded_size, 72 << 16, 72 << 16, 0, 1, 24, -1)
    full_range = 0x80 if layout.full_range else 0
    hevc = stream.codec == "hevc"
    return box(
        b"hvc1" if hevc else b"avc1",
        visual,
        box(b"hvcC", hevc_configuration(stream.extradata))
        if hevc
        else box(b"avcC", avc_configuration(stream.extradata)),
        box(b"colr", struct.pack(">4s3HB", b"nclx", *colour.codes(layout), full_range)),
        box(b"pasp", struct.pack(">II", *layout.sample_aspect)),
    )


def _moof(number: int, decode_time: int, duration: int, size: int, packet: Packet) -> bytes:
    flags = _SYNC if packet.keyframe else _NO_SYNC
    return _MOOF.pack(
        *(_MOOF.size, b"moof"),
        *(16, b"mfhd", 0, number),
        *(80, b"traf"),
        *(16, b"tfhd", 0x020000, 1),
        *(20, b"tfdt", 0x01000000, decode_time),
        *(36, b"trun", 0x01000F01, 1, _MOOF.size + _BOX.size, duration, size, flags, packet.delay),
    )
