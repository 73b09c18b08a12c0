"""The newest encoded packets of one source in one mapped file: they outlive a killed process, and cross to another.

One writer, any readers, nobody waits. Packets lie one behind the other in a ring of bytes; a table of the newest says
where. A reader copies first and then asks whether the writer has meanwhile come as far as those bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from pipeline.errors import FrameExpired
from pipeline.transport.shared import PAGE, WORD, SharedFile, page_aligned
from pipeline.types import Matrix

Codec = Literal["h264", "hevc"]
CODECS: tuple[Codec, ...] = ("h264", "hevc")
"""What a source may send for its packets to be stored as they are."""
ROWS, _COLUMNS = 4096, 9
_NEXT, _CLAIMED, _DATA_BYTES, _EPOCH = 2, 3, 4, 5
_TABLE_WORD = PAGE // WORD
_DATA_BYTE = PAGE + ROWS * _COLUMNS * WORD
_TEXT_BYTE, _TEXT_BYTES = 64 * WORD, PAGE - 64 * WORD
_NUMBER, _POSITION, _LENGTH, _KEYFRAME, _SEQ, _PTS, _DELAY, _TIME, _WALL = range(_COLUMNS)
_DEAD = -1


class Description(msgspec.Struct, frozen=True):
    """What the packets of a source are, where they are its own. extradata: parameter sets in Annex B."""

    codec: str
    extradata: bytes
    width: int
    height: int
    matrix: Matrix
    full_range: bool
    sample_aspect: tuple[int, int]


class Stored(NamedTuple):
    """One packet of the ring; the fields are those of ``sinks.Packet``, ``number`` counts from 0."""

    number: int
    data: bytes
    keyframe: bool
    seq: int
    pts: int
    time_s: float
    wall_ns: int
    delay: int


class PacketRing:
    """Both ends; only the owner writes."""

    def __init__(self, shared: SharedFile) -> None:
        self._shared = shared
        words = shared.words
        self._words = words
        self._table = words[_TABLE_WORD : _TABLE_WORD + ROWS * _COLUMNS].reshape(ROWS, _COLUMNS)
        self._times = shared.floats(_TABLE_WORD, ROWS * _COLUMNS).reshape(ROWS, _COLUMNS)[:, _TIME]
        self._size = int(words[_DATA_BYTES])
        self._data = shared.data[_DATA_BYTE : _DATA_BYTE + self._size]

    @classmethod
    def create(cls, path: Path, nbytes: int) -> PacketRing:
        """Raises ``StartupError`` where shared memory is too small for ``nbytes`` of packets."""
        nbytes = page_aligned(nbytes)
        shared = SharedFile.create(path, _DATA_BYTE + nbytes)
        shared.words[_DATA_BYTES] = nbytes
        return cls(shared)

    @classmethod
    def attach(cls, path: Path) -> PacketRing:
        return cls(SharedFile.attach(path))

    # -- the writer

    def begin(self, description: bytes) -> None:
        """Packets of another kind follow: those before are gone. Raises ``ValueError`` where it is too long."""
        if len(description) > _TEXT_BYTES - WORD:
            raise ValueError(f"{len(description)} bytes of description, but there is room for {_TEXT_BYTES - WORD}")
        self._words[_EPOCH] = self.next_number
        at = _TEXT_BYTE // WORD
        self._words[at] = len(description)
        self._shared.data[_TEXT_BYTE + WORD : _TEXT_BYTE + WORD + len(description)] = np.frombuffer(
            description, np.uint8
        )

    def append(
        self, data: bytes, *, keyframe: bool, seq: int, pts: int, time_s: float, wall_ns: int, delay: int = 0
    ) -> None:
        """A packet of more than half of the ring is left out, and with it all before it."""
        number, claimed = self.next_number, int(self._words[_CLAIMED])
        if len(data) * 2 > self._size:
            self._words[_EPOCH] = number
            return
        position = claimed
        if position % self._size + len(data) > self._size:
            position += self._size - position % self._size
        self._words[_CLAIMED] = position + len(data)
        row = self._table[number % ROWS]
        row[_NUMBER] = _DEAD
        start = position % self._size
        self._data[start : start + len(data)] = np.frombuffer(data, np.uint8)
        row[_POSITION:_TIME] = position, len(data), int(keyframe), seq, pts, delay
        self._times[number % ROWS] = time_s
        row[_WALL] = wall_ns
        row[_NUMBER] = number + 1  # fresh memory is 0: no packet
        self._words[_NEXT] = number + 1

    # -- readers

    @property
    def description(self) -> bytes:
        length = int(self._words[_TEXT_BYTE // WORD])
        return self._shared.data[_TEXT_BYTE + WORD : _TEXT_BYTE + WORD + length].tobytes()

    @property
    def next_number(self) -> int:
        return int(self._words[_NEXT])

    @property
    def first_number(self) -> int:
        """The oldest packet that may still be there, of those of one kind."""
        return max(int(self._words[_EPOCH]), self.next_number - ROWS + 1, 0)

    def packet(self, number: int) -> Stored:
        """Raises ``FrameExpired`` where it is gone, or not there yet."""
        marked, position, length, keyframe, seq, pts, delay, _, wall_ns = self._table[number % ROWS].tolist()
        time_s = float(self._times[number % ROWS])
        data = self._data[position % self._size : position % self._size + length].tobytes()
        intact = int(self._words[_CLAIMED]) - position <= self._size
        if marked != number + 1 or not intact or int(self._table[number % ROWS][_NUMBER]) != number + 1:
            raise FrameExpired(f"{self._shared.path.name}: packet {number} is gone")
        return Stored(number, data, bool(keyframe), seq, pts, time_s, wall_ns, delay)

    def newest(self) -> Stored | None:
        number = self.next_number - 1
        return self.packet(number) if number >= self.first_number else None

    def since(self, time_s: float) -> list[Stored]:
        """From the last keyframe at or before ``time_s`` on, or from the first that is there."""
        found: list[Stored] = []
        for number in range(self.next_number - 1, self.first_number - 1, -1):
            try:
                found.append(self.packet(number))
            except FrameExpired:
                break
            if found[-1].keyframe and found[-1].time_s <= time_s:
                return found[::-1]
        found.reverse()
        begin = next((index for index, packet in enumerate(found) if packet.keyframe), len(found))
        return found[begin:]

    def after(self, time_s: float) -> list[Stored]:
        """Those of a later time."""
        return [packet for packet in self.since(time_s) if packet.time_s > time_s]

    def close(self) -> None:
        self._words = self._table = np.empty((0, 0), np.int64)
        self._times = np.empty(0)
        self._data = np.empty(0, np.uint8)
        self._shared.close()
