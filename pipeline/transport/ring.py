"""The ring: one writer puts a source's frames into slots of shared memory, several readers look at them there.

Two kinds of file, all facts in words (see ``shared``):

``<source>.head``     what exists: how many frames, the end, the layouts, each reader's position (module ``head``)
``<source>.g<n>``     one generation: frames of one ``Layout``; a directory of slots, then the pixels

A change of layout opens the next generation; frame numbers go on. The old file goes when every reader has passed it.
A reader's position is the number of the first frame that it has not finished. A *lossless* writer waits until the
frame that it would overwrite has been passed by every lossless reader; otherwise the oldest frame is overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FrameExpired
from pipeline.transport.head import Head
from pipeline.transport.shared import PAGE, WORD, SharedFile, page_aligned
from pipeline.types import I420, FrameRef, Layout

LIVE_BYTES, WAITING_BYTES = 64 << 20, 24 << 20
"""About how much memory the slots of one generation may take together. A live source needs them to get over a reader
that pauses. One that waits for its readers needs few, and copies faster into memory that it has just used: 0.24
instead of 0.35 CPU-ms for a 1080p frame."""
SLOTS_MIN, SLOTS_MAX = 6, 16

DEAD = -1
"""Stands where a slot's frame number stands while its bytes change."""


def slots_for(layout: Layout, *, waits: bool) -> int:
    """How many frames of ``layout`` a generation holds."""
    room = WAITING_BYTES if waits else LIVE_BYTES
    return max(SLOTS_MIN, min(SLOTS_MAX, room // page_aligned(layout.nbytes)))


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame in the ring: valid only as long as ``Reader.valid`` says so after the pixels have been used."""

    ref: FrameRef
    image: I420
    slot: NDArray[np.int64]
    """(1,) the number of the frame that lies there."""


class _Slots:
    """The slots of one generation: whose frame lies there (one word each) and an I420 view each, made once."""

    def __init__(self, shared: SharedFile, layout: Layout, slots: int) -> None:
        self.shared = shared
        directory = shared.words[PAGE // WORD :]
        self.seqs = [directory[i : i + 1] for i in range(slots)]
        start, stride = 2 * PAGE, page_aligned(layout.nbytes)
        self.images = [I420.view(shared.data[start + i * stride :], layout) for i in range(slots)]

    @staticmethod
    def nbytes(layout: Layout, slots: int) -> int:
        return 2 * PAGE + slots * page_aligned(layout.nbytes)

    def close(self) -> None:
        self.seqs, self.images = [], []
        self.shared.close()


class Writer:
    """The capture's end of the ring. A restarted capture attaches again and goes on at ``head.next_seq``."""

    def __init__(self, head: Head, *, lossless: bool) -> None:
        self.head = head
        self._lossless = head.waits = lossless
        self._slots: _Slots | None = None
        self._layout: Layout | None = None
        self._count = 0
        self._first_seq = 0
        left = [int(path.suffix[2:]) for path in head.directory.glob(f"{head.source_id}.g[0-9]*")]
        self._retired = min(left, default=0)
        if head.generation in left:  # not where the source had left, and has come back
            self._use(SharedFile.attach(head.file(head.generation)), *head.layout(head.generation))

    def _use(self, shared: SharedFile, layout: Layout, slots: int) -> None:
        self._slots = _Slots(shared, layout, slots)
        self._layout, self._count = layout, slots
        self._first_seq = self.head.first_seq(self.head.generation)

    def has_room(self, layout: Layout) -> bool:
        """Whether the next frame may be written without taking one from a lossless reader."""
        if not self._lossless or self._layout is None:
            return True
        if layout != self._layout:
            # Two generations at most: a folder of pictures, each of its own size, must not fill the memory.
            return self.head.slowest(lossless_only=True) >= self._first_seq
        overwritten = self.head.next_seq - self._count
        return overwritten < self._first_seq or self.head.slowest(lossless_only=True) > overwritten

    def claim(self, layout: Layout) -> I420:
        """The slot for the next frame; what was in it is dead from now on."""
        if layout != self._layout:
            self._open_generation(layout)
        elif self._retired < self.head.generation:
            self.retire()
        assert self._slots is not None
        index = (self.head.next_seq - self._first_seq) % self._count
        self._slots.seqs[index][0] = DEAD
        return self._slots.images[index]

    def publish(self, *, time_s: float, captured_ns: int, wall_ns: int, corrupt: bool = False) -> int:
        """Makes the claimed slot the next frame and returns its number."""
        assert self._slots is not None
        seq = self.head.next_seq
        index = (seq - self._first_seq) % self._count
        self.head.put_clocks(seq, time_s=time_s, captured_ns=captured_ns, wall_ns=wall_ns, damaged=corrupt)
        self._slots.seqs[index][0] = seq
        if corrupt:
            self.head.count_corrupt()
        self.head.next_seq = seq + 1
        return seq

    def last_time_s(self) -> float | None:
        """The clock of the newest frame, for a capture that goes on after a restart."""
        seq = self.head.next_seq - 1
        return self.head.ref(seq).time_s if seq >= 0 else None

    def _open_generation(self, layout: Layout) -> None:
        slots = slots_for(layout, waits=self.head.waits)
        shared = SharedFile.create(self.head.file(self.head.generation + 1), _Slots.nbytes(layout, slots))
        old = self._slots
        self.head.add_generation(layout, slots)
        self._use(shared, layout, slots)
        if old is not None:
            old.close()
        self.retire()

    def retire(self) -> None:
        """Removes the files of old generations that every reader has passed."""
        while self._retired < self.head.generation:
            if self.head.slowest(lossless_only=False) < self.head.first_seq(self._retired + 1):
                return
            self.head.file(self._retired).unlink(missing_ok=True)
            self._retired += 1

    def close(self) -> None:
        if self._slots is not None:
            self._slots.close()
            self._slots = None


class Reader:
    """One reader's end of the ring."""

    def __init__(self, head: Head, name: str) -> None:
        self.head = head
        self.name = name
        self._generation = -1
        self._first_seq = 0
        self._count = 0
        self._slots: _Slots | None = None

    @property
    def position(self) -> int:
        return self.head.position(self.name)

    def move(self, position: int) -> None:
        """Everything before ``position`` is finished; never goes back."""
        if position > self.position:
            self.head.move(self.name, position)

    def frame(self, seq: int) -> Frame:
        """The published frame ``seq``; raises ``FrameExpired`` when its slot has been given to another."""
        generation = self.head.generation_of(seq)
        if generation != self._generation:
            self._switch(generation)
        assert self._slots is not None
        index = (seq - self._first_seq) % self._count
        slot = self._slots.seqs[index]
        if int(slot[0]) != seq:
            raise FrameExpired(f"{self.head.source_id}: frame {seq} was overwritten before {self.name} came to it")
        return Frame(self.head.ref(seq), self._slots.images[index], slot)

    def valid(self, frame: Frame) -> bool:
        """Whether the slot still holds that frame: asked *after* the pixels were used."""
        return int(frame.slot[0]) == frame.ref.seq

    def _switch(self, generation: int) -> None:
        try:
            shared = SharedFile.attach(self.head.file(generation))
        except FileNotFoundError as error:
            raise FrameExpired(f"{self.head.source_id}: generation {generation} is gone") from error
        if self._slots is not None:
            self._slots.close()
        layout, self._count = self.head.layout(generation)
        self._slots = _Slots(shared, layout, self._count)
        self._generation, self._first_seq = generation, self.head.first_seq(generation)

    def close(self) -> None:
        if self._slots is not None:
            self._slots.close()
            self._slots = None
        self._generation = -1
