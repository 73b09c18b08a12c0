"""The recorder that stores what the source sends, untouched, and the boxes beside it: nothing is decoded or encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from pipeline.errors import FrameExpired, RuntimeFailure
from pipeline.sinks.captions import SUFFIX, Captions
from pipeline.sinks.segments import Segments
from pipeline.sinks.sink import Accepts, Packet, SinkContext, Stream, Wish
from pipeline.sinks.tally import Tally
from pipeline.transport.packet_ring import CODECS, REORDER_MAX, Description, PacketRing, Stored
from pipeline.types import Layout, Result

NEVER_S, FOREVER_S = float("-inf"), float("inf")

log = logging.getLogger(__name__)


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
        self._tally = Tally()  # it knows what was not stored before an outage
        self._captions = Captions(context.labels)
        self._ring: PacketRing | None = None
        self._reset()

    def _reset(self) -> None:
        self._number: int | None = None
        self._done_s = NEVER_S
        self._kind: int | None = None
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
        if self._number is None:
            self._begin_reading(result.frame.seq)
        self._tally.follow(result.frame.seq)
        self._store_until(result.frame.time_s)
        self._check_codec()
        growing = self._segments.growing
        if growing is not None and result.frame.time_s >= growing.begun_s:
            captions = growing.path.with_suffix(SUFFIX)
            try:
                self._captions.add(captions, growing.begun_s, self._size, result)
            except OSError as error:
                self._segments.make_room(error, result.frame.time_s)

    def lacking(self, *, at_end: bool) -> Sequence[int]:
        return self._tally.lacking(at_end=at_end)

    def _begin_reading(self, seq: int) -> None:
        """Goes on behind what is stored; ``seq`` is the frame that is followed next."""
        assert self._ring is not None, "open comes before follow"
        ring = self._ring
        self._number = ring.behind(self._done_s)
        before = (self._packet(ring, number) for number in range(self._number - 4 * REORDER_MAX, self._number))
        done = [stored for stored in before if stored and stored.time_s <= self._done_s]
        self._await_keyframe = not done
        if not self._tally.take_up([stored.frame for stored in done], seq) and self._done_s > NEVER_S:
            log.warning(
                "sink %s: away for longer than packets are kept: what is lost of %s before frame %d is not counted",
                self._context.name,
                self._context.source_id,
                seq,
            )

    def _store_until(self, time_s: float) -> None:
        assert self._ring is not None, "open comes before follow"
        ring = self._ring
        if self._number is None:
            return
        while self._number < ring.next_number:
            stored = self._packet(ring, self._number)
            if stored is None:  # this process was away for too long, or it was too large
                self._number = max(self._number + 1, ring.first_number)
                self._await_keyframe = True
                continue
            if stored.time_s > time_s:
                return
            self._tally.passed(stored.frame, stored=self._take(ring, stored))
            self._number += 1

    @staticmethod
    def _packet(ring: PacketRing, number: int) -> Stored | None:
        try:
            return ring.packet(number)
        except FrameExpired:
            return None

    def _take(self, ring: PacketRing, stored: Stored) -> bool:
        """Whether the packet is on the disk now."""
        self._await_keyframe = self._await_keyframe and not stored.keyframe
        if self._await_keyframe:
            return False
        if stored.kind != self._kind:
            try:
                self._begin(ring.description_of(stored.kind))
            except FrameExpired:
                self._await_keyframe = True
                return False
            self._kind = stored.kind
        packet = Packet(*stored[1:8])
        if self._segments.cuts_at(packet):
            self._captions.end(self._size)
        self._segments.write(packet)
        return True

    def _begin(self, description: bytes) -> None:
        if description == self._description:
            return
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
