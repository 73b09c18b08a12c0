"""The head of a ring: what exists of one source's frames, in one file of words (see ``shared``).

It says how many frames are published, where they end, which layouts they have, how far each reader has come, and the
clocks of the newest frames; and how the source itself stands: ``status``, which anybody may read at any time without a
lock (see ``changes``). The pixels are in the files of the generations (``ring``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FrameExpired
from pipeline.transport.changes import CHANGE_WORDS, CHANGES, Changes, SourceStatus
from pipeline.transport.shared import TEXT_BYTES, WORD, SharedFile
from pipeline.types import FrameRef, Layout, Matrix, SourceReason, SourceState

_NEXT_SEQ, _END_SEQ, _GENERATION, _CORRUPT, _READERS, _WAITS, _EXPECTED, _START_WALL = 2, 3, 4, 5, 6, 7, 8, 9
_HELD, _MISSING, _ORIGIN, _LOSSES, _UNDECODED, _CHANGES = 10, 11, 12, 13, 14, 15
_READER_WORD = 16
"""From here on two words a reader: how it takes part, and its position."""
READERS_MAX = 16
_BUSY = _READER_WORD + 2 * READERS_MAX
_FIRST = _BUSY + 1
_TABLE_WORD = 64
_TABLE_ROWS, _TABLE_COLUMNS = 32, 10
_REASON_BYTE = 4096
_NAMES_BYTE = _REASON_BYTE + TEXT_BYTES
_FRAMES_WORD = 8192 // WORD
FRAMES, _FRAME_WORDS = 1024, 4
"""The clocks of this many newest frames are kept, longer than their pixels: also an expired frame has its place in
time."""
_CAPTURED, _WALL, _TIME, _DAMAGED = 0, 1, 2, 3
_CHANGES_WORD = _FRAMES_WORD + FRAMES * _FRAME_WORDS
_HEAD_BYTES = (_CHANGES_WORD + CHANGES * CHANGE_WORDS) * WORD

DETACHED, LOSSLESS, SKIPPABLE = 0, 1, 2
"""How a reader takes part."""
_MATRICES: tuple[Matrix, ...] = ("bt601", "bt709", "bt2020")


class Head:
    """The header file of one source's ring."""

    def __init__(self, shared: SharedFile) -> None:
        self._shared = shared
        self._words = shared.words
        self._frames = shared.words[_FRAMES_WORD : _FRAMES_WORD + FRAMES * _FRAME_WORDS].reshape(FRAMES, _FRAME_WORDS)
        self._times = shared.floats(_FRAMES_WORD, FRAMES * _FRAME_WORDS).reshape(FRAMES, _FRAME_WORDS)[:, _TIME]
        rows = shared.words[_CHANGES_WORD : _CHANGES_WORD + CHANGES * CHANGE_WORDS]
        self.changes = Changes(shared.words[_CHANGES : _CHANGES + 1], rows)
        names = json.loads(shared.text(_NAMES_BYTE))
        self.source_id: str = names["source"]
        self.readers: list[str] = names["readers"]

    @classmethod
    def create(cls, directory: Path, source_id: str, readers: Sequence[tuple[str, int]]) -> Head:
        """``readers``: name and how it takes part (``LOSSLESS`` or ``SKIPPABLE``), at most 16."""
        if len(readers) > READERS_MAX:
            raise ValueError(f"{len(readers)} readers, but a ring has room for {READERS_MAX}")
        shared = SharedFile.create(directory / f"{source_id}.head", _HEAD_BYTES)
        words = shared.words
        words[_NEXT_SEQ], words[_END_SEQ], words[_GENERATION] = 0, -1, -1
        words[_READERS] = len(readers)
        for index, (_, part) in enumerate(readers):
            words[_READER_WORD + 2 * index] = part
        names = {"source": source_id, "readers": [name for name, _ in readers]}
        shared.put_text(_NAMES_BYTE, json.dumps(names))
        return cls(shared)

    @classmethod
    def attach(cls, directory: Path, source_id: str) -> Head:
        return cls(SharedFile.attach(directory / f"{source_id}.head"))

    @property
    def directory(self) -> Path:
        return self._shared.path.parent

    @property
    def next_seq(self) -> int:
        """The number of frames published so far, which is the number of the next one."""
        return int(self._words[_NEXT_SEQ])

    @next_seq.setter
    def next_seq(self, value: int) -> None:
        self._words[_NEXT_SEQ] = value

    @property
    def end_seq(self) -> int | None:
        """One past the last frame there will ever be, or None while more may come."""
        value = int(self._words[_END_SEQ])
        return None if value < 0 else value

    @property
    def end_reason(self) -> str:
        return self._shared.text(_REASON_BYTE)

    def end(self, reason: str) -> None:
        """Says that no frame will follow those published; the first to say so is believed."""
        if self.end_seq is None:
            self._shared.put_text(_REASON_BYTE, reason)
            self._words[_END_SEQ] = self.next_seq

    def reopen(self, readers: Sequence[tuple[str, int]]) -> None:
        """Frames will follow after all. readers: as in ``create``; those that were given up take part again."""
        for name, part in readers:
            self._words[_READER_WORD + 2 * self.readers.index(name)] = part
        self._words[_END_SEQ] = -1

    @property
    def first_seq_here(self) -> int:
        """The number of what is now the source's first frame: before it the name belonged to another film or camera."""
        return int(self._words[_FIRST])

    def begin(self) -> None:
        """The next frame is the first one of a source that has come, come back or changed."""
        self._words[_FIRST] = self.next_seq

    @property
    def waits(self) -> bool:
        """Whether the writer waits for lossless readers; otherwise it overwrites, and what is looked at is newest."""
        return bool(self._words[_WAITS])

    @waits.setter
    def waits(self, value: bool) -> None:
        self._words[_WAITS] = value

    @property
    def held(self) -> bool:
        """Whether the writer must not begin yet, because what is behind it is still being started."""
        return bool(self._words[_HELD])

    @held.setter
    def held(self, value: bool) -> None:
        self._words[_HELD] = value

    @property
    def busy(self) -> bool:
        """Whether nobody waits for the next frame: who looks at them has its hands full, and comes by itself."""
        return bool(self._words[_BUSY])

    @busy.setter
    def busy(self, value: bool) -> None:
        self._words[_BUSY] = value

    @property
    def expected_frames(self) -> int | None:
        """About how many frames will come, for progress only."""
        return int(self._words[_EXPECTED]) or None

    @expected_frames.setter
    def expected_frames(self, value: int | None) -> None:
        self._words[_EXPECTED] = value or 0

    def start_wall_ns(self, proposed: int) -> int:
        """Wall clock of stream time 0: the first proposal stays, also when capture is restarted."""
        if not self._words[_START_WALL]:
            self._words[_START_WALL] = proposed
        return int(self._words[_START_WALL])

    def ref(self, seq: int) -> FrameRef:
        """Frame ``seq`` by name and clocks, of the newest 1024 frames; raises ``FrameExpired`` for older ones."""
        generation = self.generation_of(seq)
        captured_ns, wall_ns, *_ = self._frames[seq % FRAMES].tolist()
        ref = FrameRef(self.source_id, seq, generation, float(self._times[seq % FRAMES]), captured_ns, wall_ns)
        if self.next_seq >= seq + FRAMES:
            raise FrameExpired(f"{self.source_id}: frame {seq} is more than {FRAMES} frames old")
        return ref

    def put_clocks(self, seq: int, *, time_s: float, captured_ns: int, wall_ns: int, damaged: bool = False) -> None:
        """Notes the clocks of the frame that is about to be published, and whether the decoder knows it as damaged."""
        row = self._frames[seq % FRAMES]
        row[:2] = captured_ns, wall_ns
        row[_DAMAGED] = damaged
        self._times[seq % FRAMES] = time_s

    def damaged(self, seq: int) -> bool:
        """Whether frame ``seq`` is known to be damaged: recorded, but not looked at. Of the newest 1024 alone it is."""
        noted = bool(self._frames[seq % FRAMES][_DAMAGED])
        return noted and self.next_seq < seq + FRAMES

    @property
    def status(self) -> SourceStatus | None:
        """How the source stands now; None before its capture has said anything."""
        return self.changes.newest

    @property
    def losses(self) -> int:
        """How often a source that was live has been lost; a source that is live now has reconnected as often."""
        return int(self._words[_LOSSES])

    def tell(self, state: SourceState, reason: SourceReason, *, now_ns: int, wall_ns: int) -> None:
        """The source stands differently from now on; said by its capture, or by whoever has seen that die."""
        was = self.status
        if was is not None and was.state == "live" and state not in ("live", "ended"):
            self._words[_LOSSES] += 1
        time_s = (now_ns - self.origin_ns(now_ns)) / 1e9
        self.changes.add(state, reason, since_ns=now_ns, wall_ns=wall_ns, time_s=time_s, seq=self.next_seq)

    @property
    def undecoded(self) -> int:
        """How many pictures came but were not decoded, because decoding could not keep up; they have no number."""
        return int(self._words[_UNDECODED])

    @undecoded.setter
    def undecoded(self, value: int) -> None:
        self._words[_UNDECODED] = value

    def origin_ns(self, proposed: int) -> int:
        """Monotonic clock at ``time_s`` 0 of a live source: the first proposal stays, also after a restart."""
        if not self._words[_ORIGIN]:
            self._words[_ORIGIN] = proposed
        return int(self._words[_ORIGIN])

    @property
    def corrupt(self) -> int:
        """How many published frames the decoder knew to be damaged."""
        return int(self._words[_CORRUPT])

    def count_corrupt(self) -> None:
        self._words[_CORRUPT] += 1

    @property
    def missing(self) -> int:
        """How many frames were gone before they could be recorded."""
        return int(self._words[_MISSING])

    @missing.setter
    def missing(self, value: int) -> None:
        self._words[_MISSING] = value

    @property
    def generation(self) -> int:
        """The newest generation, -1 before the first frame."""
        return int(self._words[_GENERATION])

    def part(self, reader: str) -> int:
        return int(self._words[_READER_WORD + 2 * self.readers.index(reader)])

    def detach(self, reader: str) -> None:
        """Nobody waits for this reader any more."""
        self._words[_READER_WORD + 2 * self.readers.index(reader)] = DETACHED

    def position(self, reader: str) -> int:
        return int(self._words[_READER_WORD + 2 * self.readers.index(reader) + 1])

    def move(self, reader: str, position: int) -> None:
        self._words[_READER_WORD + 2 * self.readers.index(reader) + 1] = position

    def slowest(self, *, lossless_only: bool) -> int:
        """The lowest position of the readers that take part, or the number of published frames without any."""
        table = self._words[_READER_WORD : _READER_WORD + 2 * int(self._words[_READERS])].reshape(-1, 2).tolist()
        positions = [position for part, position in table if part == LOSSLESS or (part and not lossless_only)]
        return min(positions, default=self.next_seq)

    def add_generation(self, layout: Layout, slots: int) -> int:
        """Enters a generation that begins with the next frame; its file must exist already."""
        generation = self.generation + 1
        row = self._row(generation)
        row[0] = -1
        row[1:9] = (
            self.next_seq,
            layout.width,
            layout.height,
            _MATRICES.index(layout.matrix),
            int(layout.full_range),
            *layout.sample_aspect,
            slots,
        )
        row[0] = generation
        self._words[_GENERATION] = generation
        return generation

    def generation_of(self, seq: int) -> int:
        """Which generation frame ``seq`` belongs to; raises ``FrameExpired`` when the table has forgotten."""
        for generation in range(self.generation, max(-1, self.generation - _TABLE_ROWS), -1):
            marked, first_seq = self._row(generation)[:2].tolist()
            if marked == generation and first_seq <= seq:
                return generation
        raise FrameExpired(f"frame {seq} is older than the ring's table of layouts")

    def first_seq(self, generation: int) -> int:
        return int(self._row(generation)[1])

    def layout(self, generation: int) -> tuple[Layout, int]:
        """Layout and number of slots of ``generation``."""
        _, _, width, height, matrix, full_range, num, den, slots, _ = self._row(generation).tolist()
        return Layout(width, height, _MATRICES[matrix], bool(full_range), (num, den)), slots

    def file(self, generation: int) -> Path:
        return self.directory / f"{self.source_id}.g{generation}"

    def _row(self, generation: int) -> NDArray[np.int64]:
        first = _TABLE_WORD + (generation % _TABLE_ROWS) * _TABLE_COLUMNS
        return self._words[first : first + _TABLE_COLUMNS]

    def close(self) -> None:
        self._words = self._frames = np.empty((0, 0), np.int64)
        self.changes = Changes(np.zeros(1, np.int64), np.zeros(CHANGES * CHANGE_WORDS, np.int64))
        self._times = np.empty(0)
        self._shared.close()
