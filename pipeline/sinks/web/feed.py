"""One source's live video for any number of viewers: packets become fragments once, and nobody waits for anybody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from typing import NamedTuple

import zmq
import zmq.asyncio

from pipeline.sinks import fmp4, live, nal
from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream

FRAGMENTS_MAX, BYTES_MAX = 128, 8 << 20
"""So much is kept for viewers that are a little behind."""
BEHIND_MAX = 25
"""A viewer that is more frames behind goes on at a keyframe."""
FRESH_NS = 500_000_000
"""A keyframe that is younger is good enough to start at; otherwise another one is asked for."""
_DURATION_MIN, _DURATION_MAX = CLOCK_HZ // 120, CLOCK_HZ

log = logging.getLogger(__name__)


class Opening(NamedTuple):
    """What a decoder needs before the first fragment. codecs: RFC 6381. header: the initialisation segment."""

    codecs: str
    width: int
    height: int
    header: bytes


class Fragment(NamedTuple):
    """One frame. number: counts the feed's fragments. seq: of the frame. time_s: its place on the player's clock."""

    number: int
    keyframe: bool
    seq: int
    time_s: float
    data: bytes
    opening: Opening


def opening_of(stream: Stream) -> Opening:
    profile = next(unit[1:4] for unit in nal.nal_units(stream.extradata) if unit[0] & 31 == 7)
    return Opening(f"avc1.{profile.hex()}", *stream.coded_size, fmp4.header(stream, {}))


def _complain(task: asyncio.Task[None]) -> None:
    """A feed ends when nobody follows any more, and by nothing else."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("live video has stopped: %s: %s", type(error).__name__, error)


class Feed:
    """Subscribes to the annotator while at least one viewer follows; everything runs in one event loop."""

    def __init__(self, context: zmq.asyncio.Context, address: str) -> None:
        self._context = context
        self._address = address
        self._socket: zmq.asyncio.Socket | None = None
        self._task: asyncio.Task[None] | None = None
        self._viewers = 0
        self._kept: deque[Fragment] = deque()
        self._bytes = 0
        self._end = 0
        self._arrived = asyncio.Event()
        self._opening: Opening | None = None
        self._stream: Stream | None = None
        self._expected = -1
        self._decode_time = 0
        self._last: Packet | None = None
        self._keyframe_ns = 0

    @property
    def viewers(self) -> int:
        return self._viewers

    async def follow(self) -> AsyncGenerator[Fragment]:
        """Every fragment from a keyframe on; a caller that is too slow misses some and gets a keyframe next."""
        with self._watched():
            index = self._place_to_start()
            while True:
                if index is None or self._end - index > BEHIND_MAX:
                    index = await self._next_keyframe()
                while index >= self._end:
                    await self._arrived.wait()
                first = self._kept[0].number
                if index < first:
                    index = None
                    continue
                yield self._kept[index - first]
                index += 1

    def _place_to_start(self) -> int | None:
        now_ns = self._now_ns()
        if self._kept and now_ns - self._keyframe_ns < FRESH_NS:
            return next((f.number for f in reversed(self._kept) if f.keyframe), None)
        return None

    async def _next_keyframe(self) -> int:
        """Asks for one, waits for it, and returns its index."""
        if (index := self._place_to_start()) is not None:
            return index
        seen = self._end
        await self._ask_for_keyframe()
        while True:
            for fragment in reversed(self._kept):
                if fragment.number < seen:
                    break
                if fragment.keyframe:
                    return fragment.number
            await self._arrived.wait()

    async def _ask_for_keyframe(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(zmq.Again):
                await self._socket.send(live.KEYFRAME, zmq.NOBLOCK)

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        self._viewers += 1
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._receive())
            self._task.add_done_callback(_complain)
        try:
            yield
        finally:
            self._viewers -= 1
            if not self._viewers:
                self.close()

    async def _receive(self) -> None:
        socket = self._socket = self._context.socket(zmq.XSUB)
        socket.set_hwm(live.QUEUED_PACKETS_MAX)
        socket.linger = 0
        socket.maxmsgsize = live.MESSAGE_MAX
        socket.reconnect_ivl = 50
        socket.connect(self._address)
        await socket.send(live.SUBSCRIBE)
        # where somebody else subscribes already, the annotator does not hear of one more
        await socket.send(live.KEYFRAME)
        while True:
            message = await socket.recv()
            try:
                packet = live.decode(message)
            except ValueError as error:
                log.warning("%s: %s", self._address, error)
                continue
            if await self._whole(packet):
                self._take(packet)

    async def _whole(self, message: live.LivePacket) -> bool:
        """Whether this packet can be decoded behind what came before; otherwise a keyframe is asked for."""
        if message.number != self._expected and not message.packet.keyframe:
            if self._expected >= 0:
                self._expected = -1
                await self._ask_for_keyframe()
            return False
        self._expected = message.number + 1
        return True

    def _take(self, message: live.LivePacket) -> None:
        packet = message.packet
        if message.stream is not None and message.stream != self._stream:
            self._stream, self._opening = message.stream, opening_of(message.stream)
        assert self._opening is not None, "a keyframe comes with its stream"
        if packet.keyframe:
            self._keyframe_ns = self._now_ns()
        self._append(packet, self._opening)
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def _append(self, packet: Packet, opening: Opening) -> None:
        """The clock of the fragments has no holes, whatever the source's does: players stop at holes."""
        duration = packet.pts - self._last.pts if self._last else CLOCK_HZ // 25
        duration = min(max(duration, _DURATION_MIN), _DURATION_MAX)
        self._last = packet
        data = fmp4.fragment(self._end + 1, packet, self._decode_time, duration)
        time_s = self._decode_time / CLOCK_HZ
        self._decode_time += duration
        self._kept.append(Fragment(self._end, packet.keyframe, packet.seq, time_s, data, opening))
        self._bytes += len(data)
        self._end += 1
        while len(self._kept) > FRAGMENTS_MAX or (self._bytes > BYTES_MAX and len(self._kept) > 1):
            self._bytes -= len(self._kept.popleft().data)

    @staticmethod
    def _now_ns() -> int:
        return round(asyncio.get_running_loop().time() * 1e9)

    def close(self) -> None:
        """Nobody looks any more: the annotator is told at once."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._socket is not None:
            self._socket.close(0)
            self._socket = None
        self._kept.clear()
        self._bytes = 0
        self._expected = -1
