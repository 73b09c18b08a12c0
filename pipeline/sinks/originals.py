"""The recorder that stores what the source sends, untouched, and the boxes beside it: nothing is decoded or encoded."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import msgspec

from pipeline.errors import FrameExpired, RuntimeFailure
from pipeline.sinks.captions import SUFFIX, Captions
from pipeline.sinks.segments import Segments
from pipeline.sinks.sink import Accepts, Packet, SinkContext, Stream, Wish
from pipeline.transport.packet_ring import CODECS, Description, PacketRing, Stored
from pipeline.types import Layout, Result

FOREVER_S = float("inf")


class Originals:
    """Takes the source's packets from capture (``packet_ring``) as far as results have come, so that boxes are stored
    with the pictures that they belong to. Nobody waits for it: what it stores has its own place to go on at.
    """

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = False

    def __init__(self, segments: Segments, packets: Path, context: SinkContext) -> None:
        self._segments = segments
        self._path = packets
        self._context = context
        self._captions = Captions(context.labels)
        self._ring: PacketRing | None = None
        self._reset()

    def _reset(self) -> None:
        self._number: int | None = None
        self._done_s = float("-inf")
        self._description: bytes | None = None
        self._size = (0, 0)
        self._await_keyframe = False

    def open(self) -> float | None:
        self.close()
        self._reset()
        stored_s = self._segments.open()
        self._ring = PacketRing.attach(self._path)
        if stored_s is not None:
            self._done_s = stored_s
        return None

    def wish(self, time_s: float) -> Wish:  # noqa: ARG002
        return Wish.NOTHING

    def start(self, stream: Stream) -> None:
        """What the annotator encodes for others is not for this one."""

    def write(self, packet: Packet) -> float | None:  # noqa: ARG002
        return None

    def follow(self, result: Result) -> None:
        """Raises ``RuntimeFailure`` where the source's video cannot be stored as it is, or the disk is gone."""
        self._check_codec()
        self._store_until(result.frame.time_s)
        growing = self._segments.growing
        if growing is not None and result.frame.time_s >= growing.begun_s:
            captions = growing.path.with_suffix(SUFFIX)
            try:
                self._captions.add(captions, growing.begun_s, self._size, result)
            except OSError as error:
                self._segments.make_room(error, result.frame.time_s)

    def _store_until(self, time_s: float) -> None:
        assert self._ring is not None, "open comes before follow"
        ring = self._ring
        if self._number is None:
            first = next(iter(ring.after(self._done_s)), None)
            if first is None:
                return
            self._number = first.number
        while self._number < ring.next_number:
            try:
                stored = ring.packet(self._number)
            except FrameExpired:  # this process was away for too long, or the packets are of another kind now
                self._number = max(self._number + 1, ring.first_number)
                self._await_keyframe = True
                continue
            if stored.time_s > time_s:
                return
            self._take(ring, stored)
            self._number += 1

    def _take(self, ring: PacketRing, stored: Stored) -> None:
        self._await_keyframe = self._await_keyframe and not stored.keyframe
        if self._await_keyframe:
            return
        if ring.description != self._description:
            self._begin(ring.description)
        packet = Packet(*stored[1:])
        if self._segments.cuts_at(packet):
            self._captions.end(self._size)
        self._segments.write(packet)

    def _begin(self, description: bytes) -> None:
        said = msgspec.msgpack.decode(description, type=Description)
        self._captions.end(self._size)
        self._description, self._size = description, (said.width, said.height)
        layout = Layout(said.width, said.height, said.matrix, said.full_range, said.sample_aspect)
        self._segments.start(Stream(layout, said.extradata, "hevc" if said.codec == "hevc" else "h264"))

    def finish(self) -> None:
        self._store_until(FOREVER_S)
        self._captions.end(self._size)
        self._segments.finish()

    def _check_codec(self) -> None:
        assert self._ring is not None
        description = self._ring.description
        if not description or description == self._description:
            return
        codec = msgspec.msgpack.decode(description, type=Description).codec
        if codec not in CODECS:
            raise RuntimeFailure(
                f"sink {self._context.name}: {self._context.source_id} sends {codec}, and only {' and '.join(CODECS)} "
                "can be stored as they are (overlay: burn stores any)"
            )

    def close(self) -> None:
        self._segments.close()
        if self._ring is not None:
            self._ring.close()
            self._ring = None
