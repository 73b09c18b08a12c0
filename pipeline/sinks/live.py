"""The annotator's packets for other processes of this machine: the live page, and whoever looks for a while.

A ZeroMQ XPUB socket (``<source>.packets``): whoever subscribes wants packets, and nobody is waited for; a subscriber
that is slow or frozen misses some, sees that by their numbers, and asks for a keyframe to go on at. ZeroMQ tells when
the last subscriber has gone, also by kill -9, so that nothing is encoded for nobody.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import zmq

from pipeline.sinks.sink import Accepts, Packet, Stream, Wish
from pipeline.transport.channel import ipc

QUEUED_PACKETS_MAX = 64
"""For each subscriber: two seconds, and what makes its memory bounded."""
MESSAGE_MAX = 16 << 20
SUBSCRIBE, UNSUBSCRIBE, KEYFRAME = b"\1", b"\0", b"keyframe"
"""What a subscriber (an XSUB socket) sends."""


def address(run_dir: Path, source_id: str) -> str:
    return ipc(run_dir / f"{source_id}.packets")


@dataclass(frozen=True, slots=True)
class LivePacket:
    """One message. number: of the packet in its annotator's life; a gap is a loss, a step back is a new annotator.

    stream: what the packets are, with every keyframe.
    """

    number: int
    packet: Packet
    stream: Stream | None


def decode(message: bytes) -> LivePacket:
    """Raises ``ValueError`` where it is none."""
    try:
        return msgspec.msgpack.decode(message, type=LivePacket)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"not a packet: {error}") from error


class LivePackets:
    """The annotator's end: a packet sink that knows whether anybody takes what it is given."""

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = False

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], where: str) -> None:
        self._context = context
        self._address = where
        self._socket: zmq.Socket[bytes] | None = None
        self._stream: Stream | None = None
        self._wanted = False
        self._keyframe = False
        self._number = 0

    def open(self) -> None:
        self.close()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.set_hwm(QUEUED_PACKETS_MAX)
        self._socket.linger = 0
        self._socket.bind(self._address)

    def wish(self, time_s: float) -> Wish:  # noqa: ARG002
        assert self._socket is not None, "open comes before wish"
        with contextlib.suppress(zmq.Again):
            while True:
                self._hear(self._socket.recv(zmq.NOBLOCK))
        if not self._wanted:
            return Wish.NOTHING
        return Wish.KEYFRAME if self._keyframe else Wish.PACKET

    def _hear(self, message: bytes) -> None:
        if message == UNSUBSCRIBE:
            self._wanted = False
            return
        self._wanted |= message == SUBSCRIBE
        self._keyframe = True

    def start(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, packet: Packet) -> None:
        """Never waits."""
        assert self._socket is not None
        self._keyframe &= not packet.keyframe
        if self._wanted:
            message = LivePacket(self._number, packet, self._stream if packet.keyframe else None)
            self._number += 1
            with contextlib.suppress(zmq.Again):
                self._socket.send(msgspec.msgpack.encode(message), zmq.NOBLOCK)

    def finish(self) -> None:
        """Nothing to do: there is no file."""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
