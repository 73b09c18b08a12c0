"""The result log of one source: what inference says of each frame, in shared memory, so that no kill -9 loses it.

One writer (inference), read by the annotator (results), the events process (outbox) and the supervisor (figures).

A frame is committed in this order: its result, the events it raised, the analytics' state after it, and with that all
counts; then ``_COMMITS`` is counted up. That one store is the commit: a process killed before it does the frame again
from the state behind the frame before, one killed after it goes on with the next. Two state slots take turns, so the
last committed one is whole. What happens to the source between two frames (it is lost, it is back) is committed in the
same way, without a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FrameExpired, RuntimeFailure
from pipeline.transport import wire
from pipeline.transport.shared import WORD, SharedFile
from pipeline.types import SKIP_CAUSES, Event, FrameRef, Result

RESULTS, RESULT_BYTES = 256, 32 << 10
OUTBOX, EVENT_BYTES = 1024, 2 << 10
EVENTS_WAITING = 10_240
"""So many events of all sources together find room while nobody takes them; of each at least ``OUTBOX``."""
TRACKS_BYTES, RULE_BYTES = 128 << 10, 96 << 10
"""Room for the analytics' state: of a tracker in a flood of faces, and of each rule and zone that looks at them."""
LATENCY_BUCKETS = 512
LATENCY_LOWEST_S, LATENCY_STEP = 1e-4, 1.025
"""Bucket i counts latencies up to LOWEST * STEP**i seconds: 2.5 % fine, up to half a minute."""

_PUBLISHED, _FINISHED, _EVENTS, _TAKEN, _LOST, _EVENTS_DETACHED = 2, 3, 4, 5, 6, 7
_FIGURES = 8
"""Counts that are committed with each result: changes of the source's state that were taken in, detected, faces with a
mask, without, episodes; then frames skipped by cause."""
_CHANGES, _DETECTED, _FACES_MASK, _FACES_NO_MASK, _EPISODES, _SKIPPED = range(_FIGURES, _FIGURES + 6)
_FIGURES_END = _SKIPPED + len(SKIP_CAUSES)
_FIRST_RESULT_NS, _LAST_RESULT_NS, _ATTEMPT_SEQ, _ATTEMPTS, _COMMITS = 32, 33, 34, 35, 36
_OUTBOX, _STATE_BYTES = 37, 38
_LATENCY = 64
AGE_BUCKETS = 448
_AGES = _LATENCY + LATENCY_BUCKETS
_RECORDS_BYTE = 8192
_HEADER = 2 * WORD  # number and length before every record
_DEAD = -1


class ResultLog:
    """Both ends of one source's log; only inference calls what writes."""

    def __init__(self, shared: SharedFile) -> None:
        self._shared = shared
        self._words = shared.words
        self._outbox_byte = _RECORDS_BYTE + RESULTS * RESULT_BYTES
        self._outbox = int(self._words[_OUTBOX])
        self._state_byte = self._outbox_byte + self._outbox * EVENT_BYTES
        self._state_bytes = int(self._words[_STATE_BYTES])

    @classmethod
    def create(cls, directory: Path, source_id: str, outbox: int = OUTBOX, rules: int = 1) -> ResultLog:
        """outbox: how many events find room until somebody takes them. rules: how many keep a state here."""
        state_bytes = TRACKS_BYTES + rules * RULE_BYTES
        nbytes = _RECORDS_BYTE + RESULTS * RESULT_BYTES + outbox * EVENT_BYTES + 2 * state_bytes
        shared = SharedFile.create(directory / f"{source_id}.results", nbytes)
        shared.words[_OUTBOX], shared.words[_STATE_BYTES] = outbox, state_bytes
        return cls(shared)

    @classmethod
    def attach(cls, directory: Path, source_id: str) -> ResultLog:
        return cls(SharedFile.attach(directory / f"{source_id}.results"))

    # -- written by inference

    def commit(self, result: Result, events: Sequence[Event], state: Any, faces: tuple[int, int] = (0, 0)) -> None:
        """Makes ``result`` the next one, together with its events, the figures and the analytics' state behind it.

        faces: found with a mask, and without. Raises ``RuntimeFailure`` when a record is too small for what it gets.
        """
        seq = result.frame.seq
        assert seq == self.published, (seq, self.published)
        self._put(_RECORDS_BYTE + (seq % RESULTS) * RESULT_BYTES, RESULT_BYTES, seq, wire.encode(result))
        figures = self._figures_after(result, faces)
        self._commit(seq + 1, figures, events, state)

    def commit_change(self, changes: int, events: Sequence[Event], state: Any) -> None:
        """The source's state has changed between two frames: ``changes`` have been taken in now.

        events: what the analytics say of it. state: theirs behind it.
        """
        figures: list[int] = self._words[_FIGURES:_FIGURES_END].tolist()
        figures[_CHANGES - _FIGURES] = changes
        self._commit(self.published, figures, events, state)

    def _commit(self, published: int, figures: list[int], events: Sequence[Event], state: Any) -> None:
        figures[_EPISODES - _FIGURES] += sum(event.phase == "new" for event in events)
        events_after = self._put_events(events)
        commits = int(self._words[_COMMITS]) + 1
        record = wire.encode([published, events_after, figures, state])
        self._put(self._state_of(commits), self._state_bytes, commits, record)
        self._words[_COMMITS] = commits
        self._show(published, events_after, figures)

    def _show(self, published: int, events: int, figures: list[int]) -> None:
        """What others look at; done again after a death in the middle of it."""
        self._words[_PUBLISHED] = published
        self._words[_EVENTS] = events
        self._words[_FIGURES:_FIGURES_END] = figures

    def _figures_after(self, result: Result, faces: tuple[int, int]) -> list[int]:
        figures: list[int] = self._words[_FIGURES:_FIGURES_END].tolist()
        if result.detected:
            figures[_DETECTED - _FIGURES] += 1
            figures[_FACES_MASK - _FIGURES] += faces[0]
            figures[_FACES_NO_MASK - _FIGURES] += faces[1]
        else:
            figures[_SKIPPED - _FIGURES + SKIP_CAUSES.index(result.reason or "failed")] += 1
        return figures

    def finish(self, events: Sequence[Event]) -> None:
        """The end of the stream: no result will follow, ``events`` are the last.

        A process killed in here finds the state behind the last frame again and says the same events again, under
        the same numbers.
        """
        if not self.finished:
            self._words[_EVENTS] = self._put_events(events)
            self._words[_FINISHED] = 1

    def _put_events(self, events: Sequence[Event]) -> int:
        """Writes behind the committed events without counting them; returns the count that would include them."""
        first = self.events_published
        for number, event in enumerate(events, first):
            self._put(
                self._outbox_byte + (number % self._outbox) * EVENT_BYTES, EVENT_BYTES, number, wire.encode(event)
            )
        return first + len(events)

    def resume(self) -> Any:
        """The analytics' state behind the newest commit, None before the first; repairs a half-done commit."""
        commits = int(self._words[_COMMITS])
        if commits == 0:
            return None
        raw = self._get(self._state_of(commits), commits)
        if raw is None:
            raise RuntimeFailure(f"{self._shared.path.name}: the state behind commit {commits} is missing")
        published, events_after, figures, state = msgspec.msgpack.decode(raw)
        self._show(published, events_after, figures)
        return state

    def reopen(self, ended: Callable[[Any], Any]) -> None:
        """The stream that had ended goes on. ended: the analytics' state behind the newest commit → behind the end."""
        events = self.events_published
        state = ended(self.resume())
        self._words[_EVENTS] = events  # those of the end are told
        self._commit(self.published, self._words[_FIGURES:_FIGURES_END].tolist(), [], state)
        self._words[_FINISHED] = 0

    def _state_of(self, commit: int) -> int:
        return self._state_byte + (commit % 2) * self._state_bytes

    def attempt(self, seq: int) -> int:
        """Notes that frame ``seq`` is about to be looked at; returns how often it has been tried before."""
        if int(self._words[_ATTEMPT_SEQ]) == seq + 1:  # fresh memory is 0: no frame
            self._words[_ATTEMPTS] += 1
        else:
            self._words[_ATTEMPTS] = 0
            self._words[_ATTEMPT_SEQ] = seq + 1
        return int(self._words[_ATTEMPTS])

    def has_room(self, events: int = 64) -> bool:
        """Whether that many more events fit into the outbox without losing one."""
        return bool(self._words[_EVENTS_DETACHED]) or self.events_published - self.events_taken + events <= self._outbox

    def detach_events(self) -> None:
        """Nobody takes events from here (any more): they are counted, and the oldest are overwritten."""
        self._words[_EVENTS_DETACHED] = 1

    def abandon(self) -> None:
        """Inference has failed for good: what is committed is all there will be."""
        self.resume()
        self._words[_FINISHED] = 1

    def count_lost_events(self, events: int) -> None:
        self._words[_LOST] += events

    def note_latency(self, result: Result, now_ns: int) -> None:
        """For people; a restart in the middle may leave one out."""
        self._words[_LAST_RESULT_NS] = now_ns
        if not self._words[_FIRST_RESULT_NS]:
            self._words[_FIRST_RESULT_NS] = now_ns
        if result.detected:
            self._words[_LATENCY + _bucket(now_ns - result.frame.captured_ns, LATENCY_BUCKETS)] += 1

    def note_start(self, frame: FrameRef, begun_ns: int) -> None:
        """How old a frame was when a look at it began, likewise."""
        self._words[_AGES + _bucket(begun_ns - frame.captured_ns, AGE_BUCKETS)] += 1

    # -- read by everybody

    @property
    def published(self) -> int:
        """The number of the next result."""
        return int(self._words[_PUBLISHED])

    @property
    def finished(self) -> bool:
        """No result will follow the published ones."""
        return bool(self._words[_FINISHED])

    def result(self, seq: int) -> Result:
        """The published result of frame ``seq``; raises ``FrameExpired`` when it has been overwritten."""
        raw = self._get(_RECORDS_BYTE + (seq % RESULTS) * RESULT_BYTES, seq)
        if raw is None:
            raise FrameExpired(f"{self._shared.path.name}: the result of frame {seq} is gone")
        return wire.decode_result(raw)

    @property
    def events_published(self) -> int:
        return int(self._words[_EVENTS])

    @property
    def events_taken(self) -> int:
        return int(self._words[_TAKEN])

    @events_taken.setter
    def events_taken(self, value: int) -> None:
        self._words[_TAKEN] = value

    @property
    def episodes(self) -> int:
        """How many episodes have begun, which is how many event ids there are."""
        return int(self._words[_EPISODES])

    @property
    def events_lost(self) -> int:
        return int(self._words[_LOST])

    def event(self, number: int) -> Event:
        """Event ``number`` of this source's outbox; raises ``FrameExpired`` when it has been overwritten."""
        raw = self._get(self._outbox_byte + (number % self._outbox) * EVENT_BYTES, number)
        if raw is None:
            raise FrameExpired(f"{self._shared.path.name}: event {number} is gone")
        return wire.decode_event(raw)

    @property
    def changes_taken(self) -> int:
        """How many changes of the source's state the analytics know of."""
        return int(self._words[_CHANGES])

    @property
    def detected(self) -> int:
        """How many frames the detector looked at."""
        return int(self._words[_DETECTED])

    @property
    def faces(self) -> tuple[int, int]:
        """Faces seen so far, counted once a frame: with a mask, without."""
        return int(self._words[_FACES_MASK]), int(self._words[_FACES_NO_MASK])

    @property
    def skipped(self) -> dict[str, int]:
        """Frames that were not looked at, by cause; causes that did not happen are left out."""
        counts = self._words[_SKIPPED : _SKIPPED + len(SKIP_CAUSES)].tolist()
        return {cause: count for cause, count in zip(SKIP_CAUSES, counts, strict=True) if count}

    @property
    def first_result_ns(self) -> int | None:
        """Monotonic clock of the first result."""
        return int(self._words[_FIRST_RESULT_NS]) or None

    @property
    def last_result_ns(self) -> int | None:
        """Monotonic clock of the newest result."""
        return int(self._words[_LAST_RESULT_NS]) or None

    @property
    def latency_counts(self) -> NDArray[np.int64]:
        """(512,) int64: how many results came within each bucket of latency, capture to result."""
        return self._words[_LATENCY : _LATENCY + LATENCY_BUCKETS].copy()

    @property
    def age_counts(self) -> NDArray[np.int64]:
        """(448,) int64: how many frames were how old when a look at them began, in the same buckets."""
        return self._words[_AGES : _AGES + AGE_BUCKETS].copy()

    # -- records

    def _put(self, byte: int, room: int, number: int, raw: bytes) -> None:
        if len(raw) > room - _HEADER:
            raise RuntimeFailure(f"{self._shared.path.name}: a record of {len(raw)} bytes does not fit in {room}")
        word = byte // WORD
        self._words[word] = _DEAD
        self._shared.data[byte + _HEADER : byte + _HEADER + len(raw)] = np.frombuffer(raw, np.uint8)
        self._words[word + 1] = len(raw)
        self._words[word] = number + 1  # fresh memory is 0: no number

    def _get(self, byte: int, number: int) -> bytes | None:
        word = byte // WORD
        if int(self._words[word]) != number + 1:
            return None
        raw = self._shared.data[byte + _HEADER : byte + _HEADER + int(self._words[word + 1])].tobytes()
        return raw if int(self._words[word]) == number + 1 else None

    def close(self) -> None:
        self._words = np.empty(0, np.int64)
        self._shared.close()


def _bucket(elapsed_ns: int, buckets: int) -> int:
    elapsed_s = max(elapsed_ns / 1e9, LATENCY_LOWEST_S)
    return min(int(math.log(elapsed_s / LATENCY_LOWEST_S) / math.log(LATENCY_STEP)), buckets - 1)


def latency_edges_s(buckets: int) -> NDArray[np.float64]:
    """(buckets,): the upper edge of each bucket, in seconds."""
    return np.asarray(LATENCY_LOWEST_S * LATENCY_STEP ** np.arange(1, buckets + 1))


def latency_quantiles_ms(counts: NDArray[np.int64], quantiles: Sequence[float]) -> list[float | None]:
    """Milliseconds below which that share of the counted latencies lies (upper edge of the bucket), None of none."""
    total = int(counts.sum())
    if not total:
        return [None for _ in quantiles]
    edges_ms = 1e3 * latency_edges_s(len(counts))
    indices = np.searchsorted(np.cumsum(counts), np.asarray(quantiles) * total)
    return [round(float(edges_ms[min(i, len(counts) - 1)]), 2) for i in indices]
