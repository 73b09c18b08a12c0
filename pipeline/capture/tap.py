"""A source's own packets as they come, for whoever stores them untouched: put beside the frame ring, on its clock.

Only H.264 and H.265. A packet has no time on the source's clock until a picture has been decoded: the first ones wait.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.transport.packet_ring import CODECS, Description, PacketRing
from pipeline.types import Layout

CLOCK_HZ = 90_000
WAITING_MAX = 250
"""Packets that may come before the first picture."""
SETTLED = 12
"""Pictures of a live source until its clock is known well enough; the first ones come late or in a rush."""
APART_S = 1e-4
USUAL_S = Fraction(1, 25)
"""How far apart packets are taken to be that come without a timestamp, as the first of an RTSP session does."""
_SETS = {"h264": (7, 8), "hevc": (32, 33, 34)}
_DELIMITER = {"h264": 9, "hevc": 35}
_START = b"\0\0\0\1"


class _Waiting(NamedTuple):
    units: list[bytes]
    keyframe: bool
    shown_s: Fraction
    decoded_s: Fraction


class PacketTap:
    """One source's. What it writes: Annex B without parameter sets, ``seq`` the packet's own number, ``pts`` and
    ``time_s`` the moment of decoding on the source's clock, ``delay`` by how much later the picture is shown, in
    ``CLOCK_HZ``; the ring's description is ``Description``.

    wall_ns: from a moment on the source's clock to the wall clock.
    """

    def __init__(self, ring: PacketRing, *, origin_s: float, wall_ns: Callable[[float], int]) -> None:
        self._ring = ring
        self._live = origin_s > 0
        self._origin_s = origin_s
        self._wall_ns = wall_ns
        newest = ring.newest()
        self._resume_s = self._last_s = newest.time_s if newest else float("-inf")
        self._last_pts = newest.pts if newest else -(1 << 62)
        self._waiting: deque[_Waiting] = deque(maxlen=WAITING_MAX)
        self._reset()

    def _reset(self) -> None:
        self._waiting.clear()
        self._unstamped: deque[tuple[list[bytes], bool]] = deque(maxlen=WAITING_MAX)
        self._pictures = 0
        self._offset_s: float | None = None
        self._newest_offset_s = 0.0
        self._layout: Layout | None = None
        self._sets: tuple[bytes, ...] = ()
        self._length_size: int | None = None
        self._begun = False

    def begin(self, stream: VideoStream) -> None:
        """A new connection, or the file from its start."""
        self._reset()
        context = stream.codec_context
        self._codec, self._size = context.name, (context.width, context.height)
        extradata = bytes(context.extradata or b"")
        if self._codec not in CODECS:
            return
        if extradata[:1] == b"\1":
            read = _avc_configuration if self._codec == "h264" else _hevc_configuration
            with suppress(IndexError, struct.error):  # damaged: nothing begins
                self._length_size, self._sets = read(extradata)
        else:
            self._sets = self._sets_in(_annex_b(extradata))

    def packet(self, packet: Packet[Any]) -> None:
        """Called for each packet of the video, in the order of decoding, before it is decoded."""
        if not packet.size:
            return
        units = self._units(bytes(packet)) if self._codec in CODECS else []
        stamp = packet.dts if packet.dts is not None else packet.pts
        if stamp is None or not packet.time_base:
            self._unstamped.append((units, packet.is_keyframe))
            return
        decoded_s = stamp * packet.time_base
        for number, (earlier, keyframe) in enumerate(self._unstamped):
            at_s = decoded_s - (len(self._unstamped) - number) * USUAL_S
            self._waiting.append(_Waiting(earlier, keyframe, at_s, at_s))
        self._unstamped.clear()
        shown = packet.pts if packet.pts is not None else stamp
        self._waiting.append(_Waiting(units, packet.is_keyframe, shown * packet.time_base, decoded_s))
        if self._offset_s is not None:
            self._write_waiting()

    def _units(self, data: bytes) -> list[bytes]:
        return list(_annex_b(data) if self._length_size is None else _prefixed(data, self._length_size))

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63

    def _sets_in(self, units: Iterable[bytes]) -> tuple[bytes, ...]:
        return tuple(unit for unit in units if self._kind(unit) in _SETS[self._codec])

    def picture(self, stamp_s: float, time_s: float, layout: Layout) -> None:
        """A picture of the timestamp ``stamp_s`` has the time ``time_s`` on the source's (or the monotonic) clock."""
        self._newest_offset_s = time_s - self._origin_s - stamp_s
        self._pictures += 1
        if self._offset_s is None and self._pictures >= (SETTLED if self._live else 1):
            self._offset_s, self._layout = self._newest_offset_s, layout
            if not all(self._size):  # a stream that is joined between key frames does not say it at once
                self._size = layout.width, layout.height
            self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            self._write(self._waiting.popleft())

    def _write(self, packet: _Waiting) -> None:
        if self._codec not in CODECS:
            self._describe()
            return
        if packet.keyframe:
            self._offset_s = self._newest_offset_s  # clocks drift apart
            self._sets = self._sets_in(packet.units) or self._sets
            self._begun = bool(self._sets)
            self._describe()
        assert self._offset_s is not None
        time_s = float(packet.decoded_s) + self._offset_s
        if not self._begun or time_s <= self._resume_s:
            return  # before the first key frame, or written before this process was started again
        time_s = max(time_s, self._last_s + APART_S)
        pts = max(round(time_s * CLOCK_HZ), self._last_pts + 1)
        delay = max(0, round((packet.shown_s - packet.decoded_s) * CLOCK_HZ))
        aside = (*_SETS[self._codec], _DELIMITER[self._codec])
        picture = [unit for unit in packet.units if self._kind(unit) not in aside]
        data = b"".join(_START + unit for unit in picture)
        self._ring.append(
            data,
            keyframe=packet.keyframe,
            seq=self._ring.next_number,
            pts=pts,
            time_s=time_s,
            wall_ns=self._wall_ns(time_s),
            delay=delay,
        )
        self._last_s, self._last_pts = time_s, pts

    def _describe(self) -> None:
        assert self._layout is not None
        layout = self._layout
        said = Description(
            codec=self._codec,
            extradata=b"".join(_START + unit for unit in self._sets),
            width=self._size[0],
            height=self._size[1],
            matrix=layout.matrix,
            full_range=layout.full_range,
            sample_aspect=layout.sample_aspect,
        )
        description = msgspec.msgpack.encode(said)
        if description != self._ring.description:
            self._ring.begin(description)


def _annex_b(data: bytes) -> Iterator[bytes]:
    units = (unit.rstrip(b"\0") for unit in data.split(b"\0\0\1")[1:])
    return (unit for unit in units if unit)


def _prefixed(data: bytes, size: int) -> Iterator[bytes]:
    position = 0
    while position + size < len(data):
        length = int.from_bytes(data[position : position + size], "big")
        if length:
            yield data[position + size : position + size + length]
        position += size + length


def _avc_configuration(record: bytes) -> tuple[int, tuple[bytes, ...]]:
    """An AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1): size of the lengths, parameter sets."""
    sets: list[bytes] = []
    position = 5
    for mask in (31, 255):
        number = record[position] & mask
        position += 1
        for _ in range(number):
            (length,) = struct.unpack_from(">H", record, position)
            sets.append(record[position + 2 : position + 2 + length])
            position += 2 + length
    return (record[4] & 3) + 1, tuple(sets)


def _hevc_configuration(record: bytes) -> tuple[int, tuple[bytes, ...]]:
    """An HEVCDecoderConfigurationRecord (8.3.3.1), likewise."""
    sets: list[bytes] = []
    position = 23
    for _ in range(record[22]):
        kind, number = struct.unpack_from(">BH", record, position)
        position += 3
        for _ in range(number):
            (length,) = struct.unpack_from(">H", record, position)
            if kind & 63 in _SETS["hevc"]:
                sets.append(record[position + 2 : position + 2 + length])
            position += 2 + length
    return (record[21] & 3) + 1, tuple(sets)
