"""A source's own packets as they come, for whoever stores them untouched: put beside the frame ring, on its clock.

Only H.264 and H.265. A packet waits for its own picture, which says what time it is and how large: timestamps may be
missing, jump or fall back, and a size may change, and the packets have the times and sizes that the frames have.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec
from av.codec.context import Flags
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.capture.nal import PARAMETER_SETS, annex_b, prefixed, read_avc_configuration, read_hevc_configuration
from pipeline.transport.packet_ring import CODECS, NO_FRAME, REORDER_MAX, Description, PacketRing
from pipeline.types import Layout

CLOCK_HZ = 90_000
WAITING_MAX = 250
"""Packets that may come before the first picture."""
SETTLED = 12
"""Pictures of a live source until its clock is known well enough; the first ones come late or in a rush."""
APART_S = 1e-4
JUMP_S = 2.0
"""A live picture whose timestamp is so far off has another count of timestamps."""
USUAL_S = Fraction(1, 25)
"""How far apart packets are taken to be that come without a timestamp, as the first of an RTSP session does."""
_DELIMITER = {"h264": 9, "hevc": 35}
_START = b"\0\0\0\1"


class _Picture(NamedTuple):
    """time_s: on the source's clock. frame: its number. layout: as stored in the stream, before it is turned."""

    time_s: float
    frame: int
    layout: Layout


@dataclass(slots=True, eq=False)
class _Waiting:
    """One packet: its NAL units and its timestamps, in seconds, where it has any."""

    units: list[bytes]
    keyframe: bool
    shown_s: Fraction | None
    decoded_s: Fraction | None
    picture: _Picture | None = None


class PacketTap:
    """One source's. What it writes: Annex B without parameter sets, ``seq`` the packet's own number, ``pts`` and
    ``time_s`` the moment of decoding on the source's clock, ``delay`` by how much later the picture is shown, in
    ``CLOCK_HZ``; the ring's description is ``Description``.

    wall_ns: from a moment on the source's clock to the wall clock. next_frame: how many frames are published, which is
    the number of the frame that the next picture will be. again: so many of the next pictures are published already.
    """

    def __init__(
        self,
        ring: PacketRing,
        *,
        origin_s: float,
        wall_ns: Callable[[float], int],
        next_frame: Callable[[], int],
    ) -> None:
        self._ring = ring
        self._live = origin_s > 0
        self._origin_s = origin_s
        self._wall_ns = wall_ns
        self._next_frame = next_frame
        self.again = 0
        newest = ring.newest()
        self._resume_s = newest.time_s if newest else float("-inf")
        self._last_s = self._resume_s if self._live else float("-inf")  # a file is read again from its beginning
        self._last_pts = newest.pts if newest else -(1 << 62)
        self._waiting: deque[_Waiting] = deque(maxlen=WAITING_MAX)
        self._reset()

    def _reset(self) -> None:
        self._waiting.clear()
        self._times: deque[float] = deque()
        self._pictures = 0
        self._offset_s: float | None = None
        self._newest_offset_s: float | None = None
        self._layout: Layout | None = None
        self._sets: tuple[bytes, ...] = ()
        self._length_size: int | None = None
        self._begun = False

    def begin(self, stream: VideoStream) -> None:
        """A new connection, or the file from its start."""
        self.end()
        self._reset()
        context = stream.codec_context
        context.flags |= Flags.copy_opaque  # so that a picture says which packet it is of
        self._codec = context.name
        extradata = bytes(context.extradata or b"")
        if self._codec not in CODECS:
            return
        if extradata[:1] == b"\1":
            read = read_avc_configuration if self._codec == "h264" else read_hevc_configuration
            with suppress(IndexError, struct.error):  # damaged: nothing begins
                self._length_size, self._sets = read(extradata)
        else:
            self._sets = self._sets_in(annex_b(extradata))

    def packet(self, packet: Packet[Any]) -> None:
        """Called for each packet of the video, in the order of decoding, before it is decoded."""
        if not packet.size:
            return
        units = self._units(bytes(packet)) if self._codec in CODECS else []
        shown = packet.dts if packet.pts is None else packet.pts
        decoded = packet.pts if packet.dts is None else packet.dts
        base = packet.time_base
        shown_s, decoded_s = (None if stamp is None or not base else stamp * base for stamp in (shown, decoded))
        waiting = _Waiting(units, packet.is_keyframe, shown_s, decoded_s)
        packet.opaque = waiting
        self._waiting.append(waiting)
        self._write_ready()

    def picture(self, picture: VideoFrame, time_s: float, layout: Layout) -> None:
        """``picture``, stored in ``layout``, has the time ``time_s`` on the source's (or the monotonic) clock."""
        frame = self._next_frame() - self.again
        self.again = max(0, self.again - 1)
        packet = picture.opaque
        if not isinstance(packet, _Waiting):
            return
        packet.picture = _Picture(time_s - self._origin_s, frame, layout)
        if not self._pictures:
            self._times.extend(self._due_before(packet))
        self._times.append(packet.picture.time_s)
        self._pictures += 1
        if packet.shown_s is not None:
            self._newest_offset_s = packet.picture.time_s - float(packet.shown_s)
        self._write_ready()

    def end(self) -> None:
        """No picture will come of the packets that are still waiting."""
        last = max((number for number, packet in enumerate(self._waiting, 1) if packet.picture), default=0)
        for _ in range(last):
            self._write(self._waiting.popleft())
        self._waiting.clear()

    def _units(self, data: bytes) -> list[bytes]:
        return list(annex_b(data) if self._length_size is None else prefixed(data, self._length_size))

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63

    def _sets_in(self, units: Iterable[bytes]) -> tuple[bytes, ...]:
        return tuple(unit for unit in units if self._kind(unit) in PARAMETER_SETS[self._codec])

    def _write_ready(self) -> None:
        while self._pictures >= (SETTLED if self._live else 1) and self._waiting:
            if self._waiting[0].picture is None and len(self._waiting) <= REORDER_MAX:
                return  # behind more packets no picture comes any more
            self._write(self._waiting.popleft())

    def _write(self, packet: _Waiting) -> None:
        picture = packet.picture
        self._layout = picture.layout if picture else self._layout
        if self._codec not in CODECS:
            self._describe()
            return
        decoded_s, shown_s = self._times_of(packet)
        self._last_s = decoded_s
        if packet.keyframe:
            new = self._sets_in(packet.units)
            said = {self._kind(unit) for unit in new}
            self._sets = tuple(unit for unit in self._sets if self._kind(unit) not in said) + new
            whole = {self._kind(unit) for unit in self._sets} == set(PARAMETER_SETS[self._codec])
            self._begun = whole and self._layout is not None
            if self._begun:
                self._describe()
        aside = (*PARAMETER_SETS[self._codec], _DELIMITER[self._codec])
        data = b"".join(_START + unit for unit in packet.units if self._kind(unit) not in aside)
        if not self._begun or not data or decoded_s <= self._resume_s:
            return  # before the first key frame, or written before this process was started again
        self._last_pts = max(round(decoded_s * CLOCK_HZ), self._last_pts + 1)
        self._ring.append(
            data,
            keyframe=packet.keyframe,
            seq=self._ring.next_number,
            pts=self._last_pts,
            time_s=decoded_s,
            wall_ns=self._wall_ns(decoded_s),
            delay=max(0, round((shown_s - decoded_s) * CLOCK_HZ)),
            frame=picture.frame if picture else NO_FRAME,
        )

    # -- times

    def _times_of(self, packet: _Waiting) -> tuple[float, float]:
        """When it is decoded, later than any before, and when it is shown."""
        due_s = self._due_s(packet.picture)
        stamps = self._stamps(packet)
        shown_s = packet.picture.time_s if packet.picture else due_s
        if self._live and stamps:  # the sender's even steps
            offset_s = self._offset_to(packet.picture, stamps[1], keyframe=packet.keyframe)
            due_s, shown_s = (stamp + offset_s for stamp in stamps)
        elif packet.picture is None and stamps and self._newest_offset_s is not None:
            stamp_s = stamps[1] + self._newest_offset_s
            shown_s = stamp_s if 0 < stamp_s - due_s < JUMP_S else due_s
        return max(due_s, self._last_s + APART_S), shown_s

    def _due_s(self, picture: _Picture | None) -> float:
        """The moments of showing, in their order, are the moments of decoding, so much earlier that all are in time."""
        if picture is None:
            return self._last_s + APART_S
        due_s = self._times.popleft()
        if due_s > picture.time_s:  # more pictures are shown later than any before: so many are decoded earlier
            self._times.appendleft(due_s)
        return min(due_s, picture.time_s)

    def _due_before(self, first: _Waiting) -> Iterator[float]:
        """Where some packets come before the first picture, the first ones are decoded before any is shown."""
        assert first.picture is not None
        ahead = len(self._waiting) - 1 - self._waiting.index(first) if first in self._waiting else 0
        early_s = float((first.shown_s or 0) - (first.decoded_s or 0))
        step_s = early_s / ahead if ahead and early_s > 0 else APART_S
        return (first.picture.time_s - step * step_s for step in range(ahead, 0, -1))

    def _stamps(self, packet: _Waiting) -> tuple[float, float] | None:
        """Of decoding and of showing; of a packet that has none, as far as later ones tell."""
        if self._newest_offset_s is None:
            return None
        if packet.decoded_s is not None and packet.shown_s is not None:
            return float(packet.decoded_s), float(packet.shown_s)
        later = ((number, each.decoded_s) for number, each in enumerate(self._waiting, 1) if each.decoded_s is not None)
        return next(((stamp_s := float(decoded_s - number * USUAL_S), stamp_s) for number, decoded_s in later), None)

    def _offset_to(self, picture: _Picture | None, stamp_s: float, *, keyframe: bool) -> float:
        """From timestamps to the source's clock: brought up to date with each key frame, as clocks drift apart."""
        if self._offset_s is None or keyframe:
            assert self._newest_offset_s is not None
            self._offset_s = self._newest_offset_s
        if picture is not None and abs(stamp_s + self._offset_s - picture.time_s) > JUMP_S:
            self._offset_s = picture.time_s - stamp_s
        return self._offset_s

    def _describe(self) -> None:
        layout = self._layout
        if layout is None:
            return
        said = Description(
            codec=self._codec,
            extradata=b"".join(_START + unit for unit in self._sets),
            width=layout.width,
            height=layout.height,
            matrix=layout.matrix,
            full_range=layout.full_range,
            sample_aspect=layout.sample_aspect,
        )
        description = msgspec.msgpack.encode(said)
        if description != self._ring.description:
            self._ring.begin(description)
