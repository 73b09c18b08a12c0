"""The newest encoded packets of one source in one mapped file: they outlive a killed process, and cross to another.

One writer, any readers, nobody waits. Packets lie one behind the other in a ring of bytes; a table of the newest says
where. A reader copies first and then asks whether the writer has meanwhile come as far as those bytes. What kind of
packets they are stands in a page a kind, of the newest few, so that older packets keep their own description.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
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
KINDS = 8
"""So many descriptions are kept, the newest."""
ROWS, _COLUMNS = 4096, 11
_NEXT, _CLAIMED, _DATA_BYTES, _KINDS, _KINDS_CLAIMED = 2, 3, 4, 5, 6
_TABLE_BYTE = PAGE * (1 + KINDS)
_TABLE_WORD = _TABLE_BYTE // WORD
_DATA_BYTE = _TABLE_BYTE + ROWS * _COLUMNS * WORD
_NUMBER, _POSITION, _LENGTH, _KEYFRAME, _SEQ, _PTS, _DELAY, _FRAME, _KIND, _TIME, _WALL = range(_COLUMNS)
NO_FRAME = -1
REORDER_MAX = 16
"""Between two packets whose pictures follow each other lie no more than that (H.264, A.3.1; H.265, A.4.2)."""
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
    """One packet of the ring; ``number`` counts from 0, then come the fields of ``sinks.Packet``.

    frame: the source's frame that is its picture, or ``NO_FRAME``. kind: for ``description_of``.
    """

    number: int
    data: bytes
    keyframe: bool
    seq: int
    pts: int
    time_s: float
    wall_ns: int
    delay: int
    frame: int
    kind: int


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
        """Packets of another kind follow. Raises ``ValueError`` where the description is too long."""
        if len(description) > PAGE - WORD:
            raise ValueError(f"{len(description)} bytes of description, but there is room for {PAGE - WORD}")
        kind = int(self._words[_KINDS])
        self._words[_KINDS_CLAIMED] = kind + 1
        at = _page(kind)
        self._words[at // WORD] = len(description)
        self._shared.data[at + WORD : at + WORD + len(description)] = np.frombuffer(description, np.uint8)
        self._words[_KINDS] = kind + 1

    def append(
        self,
        data: bytes,
        *,
        keyframe: bool,
        seq: int,
        pts: int,
        time_s: float,
        wall_ns: int,
        delay: int = 0,
        frame: int = NO_FRAME,
    ) -> None:
        """A packet of more than half of the ring has a number, and is not there."""
        number, claimed = self.next_number, int(self._words[_CLAIMED])
        if len(data) * 2 > self._size:
            self._table[number % ROWS][_NUMBER] = _DEAD
            self._words[_NEXT] = number + 1
            return
        position = claimed
        if position % self._size + len(data) > self._size:
            position += self._size - position % self._size
        self._words[_CLAIMED] = position + len(data)
        row = self._table[number % ROWS]
        row[_NUMBER] = _DEAD
        start = position % self._size
        self._data[start : start + len(data)] = np.frombuffer(data, np.uint8)
        row[_POSITION:_TIME] = position, len(data), int(keyframe), seq, pts, delay, frame, self._words[_KINDS]
        self._times[number % ROWS] = time_s
        row[_WALL] = wall_ns
        row[_NUMBER] = number + 1  # fresh memory is 0: no packet
        self._words[_NEXT] = number + 1

    # -- readers

    @property
    def description(self) -> bytes:
        """Of the packets that come next; empty before ``begin``."""
        return self.description_of(int(self._words[_KINDS]))

    def description_of(self, kind: int) -> bytes:
        """What ``begin`` has said of the packets of this kind. Raises ``FrameExpired`` where it is gone."""
        if not kind:
            return b""
        at = _page(kind - 1)
        length = int(self._words[at // WORD])
        found = self._shared.data[at + WORD : at + WORD + length].tobytes()
        if int(self._words[_KINDS_CLAIMED]) - kind >= KINDS:
            raise FrameExpired(f"{self._shared.path.name}: the description of packets of kind {kind} is gone")
        return found

    @property
    def next_number(self) -> int:
        return int(self._words[_NEXT])

    @property
    def first_number(self) -> int:
        """The oldest packet that may still be there."""
        return max(self.next_number - ROWS + 1, 0)

    def packet(self, number: int) -> Stored:
        """Raises ``FrameExpired`` where it is gone, or not there yet."""
        row = self._table[number % ROWS].tolist()
        marked, position, length, keyframe, seq, pts, delay, frame, kind, _, wall_ns = row
        time_s = float(self._times[number % ROWS])
        data = self._data[position % self._size : position % self._size + length].tobytes()
        intact = int(self._words[_CLAIMED]) - position <= self._size
        if number < 0 or marked != number + 1 or not intact or int(self._table[number % ROWS][_NUMBER]) != number + 1:
            raise FrameExpired(f"{self._shared.path.name}: packet {number} is gone")
        return Stored(number, data, bool(keyframe), seq, pts, time_s, wall_ns, delay, frame, kind)

    def newest(self) -> Stored | None:
        """Of whatever kind, the last one that is there; one that was too large is not."""
        return next(self._backwards(), None)

    def behind(self, time_s: float) -> int:
        """The number behind that of the last packet at or before ``time_s``; of the oldest where that is gone."""
        number = self.next_number
        for packet in self._backwards():
            if packet.time_s <= time_s:
                return packet.number + 1
            number = packet.number
        return number

    def _backwards(self) -> Iterator[Stored]:
        """Those that are there, the newest first."""
        for number in range(self.next_number - 1, self.first_number - 1, -1):
            with suppress(FrameExpired):
                yield self.packet(number)

    def since(self, time_s: float) -> list[Stored]:
        """Those of the newest kind, from the last keyframe at or before ``time_s`` on, or from the first that is there,
        without any hole.
        """
        kind = int(self._words[_KINDS])
        found: list[Stored] = []
        for number in range(self.next_number - 1, self.first_number - 1, -1):
            try:
                packet = self.packet(number)
            except FrameExpired:
                break
            if packet.kind != kind:
                break
            found.append(packet)
            if packet.keyframe and packet.time_s <= time_s:
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


def _page(kind: int) -> int:
    """The byte at which the description stands that is number ``kind``, from 0."""
    return PAGE * (1 + kind % KINDS)
