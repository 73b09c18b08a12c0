"""What it costs to move one frame: from the decoder into the ring, past both readers, and its result on to the sinks.

The pipeline's own parts in the order in which three processes use them, one frame at a time, without what the stages do
in between. Counted is the time of all threads, ZeroMQ's too, which have a context a process, as in the pipeline.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import zmq

from pipeline.transport.channel import Bell, BellListener
from pipeline.transport.head import LOSSLESS, Head
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader, Writer
from pipeline.transport.run_directory import base_directory
from pipeline.types import I420, FrameRef, Layout, Result, Track

SOURCE, FIRST, SECOND = "bench", "inference", "annotator"
FRAMES, ROUNDS = 250, 3
_PICTURES = 6
"""The decoder's frames take turns in its memory, too."""
_PATIENCE_MS = 1000
_STATE = {
    "version": 1,
    "tracker": [[1, 0.5, [0.0] * 8, 3, 0.0, [0.1, 0.9]]] * 2,
    "rules": {"no_mask": {"1": [0.0] * 6}},
}

Context = zmq.Context[zmq.Socket[bytes]]


def transport_cpu_ms(layout: Layout) -> float:
    """Processor time of one frame in milliseconds, user and system: the median of several rounds."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=base_directory()) as folder, ExitStack() as stack:
        line = stack.enter_context(closing(_Line(Path(folder), layout)))
        line.run(FRAMES // 5)
        return statistics.median(line.run(FRAMES) for _ in range(ROUNDS))


class _Line:
    """Both ends of everything."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        random = np.random.default_rng(0)
        pixels = [random.integers(0, 256, layout.nbytes, np.uint8) for _ in range(_PICTURES)]
        self._pictures = [I420.view(buffer, layout) for buffer in pixels]
        self._layout = layout
        self._head = Head.create(directory, SOURCE, [(FIRST, LOSSLESS), (SECOND, LOSSLESS)])
        self._results = ResultLog.create(directory, SOURCE)
        self._writer = Writer(self._head, lossless=True)
        self._first, self._second = Reader(self._head, FIRST), Reader(self._head, SECOND)
        self._contexts: list[Context] = [zmq.Context() for _ in range(3)]
        capture, inference, annotator = self._contexts
        self._frame_bell = Bell(capture, directory / "frame-bell")
        self._result_bell = Bell(inference, directory / "result-bell")
        self._frames = BellListener(inference, directory / "frame-bell")
        self._seen = BellListener(annotator, directory / "result-bell")
        self._await(self._frame_bell, self._frames)
        self._await(self._result_bell, self._seen)

    def run(self, frames: int) -> float:
        """Processor time of one frame in milliseconds."""
        started_ns = time.process_time_ns()
        for _ in range(frames):
            self._move_one()
        return (time.process_time_ns() - started_ns) / frames / 1e6

    def _move_one(self) -> None:
        if not self._writer.has_room(self._layout):
            raise AssertionError("nobody is behind here")
        seq = self._head.next_seq
        self._pictures[seq % _PICTURES].copy_to(self._writer.claim(self._layout))
        now_ns = time.monotonic_ns()
        self._writer.publish(time_s=seq / 25, captured_ns=now_ns, wall_ns=now_ns)
        self._frame_bell.ring()
        _hear(self._frames)
        self._look(self._first, seq)
        result = Result(self._head.ref(seq), _tracks(), detected=True)
        self._results.commit(result, [], _STATE, (1, 1))
        self._results.note_latency(result, time.monotonic_ns())
        self._result_bell.ring()
        _hear(self._seen)
        ref: FrameRef = self._results.result(seq).frame
        self._look(self._second, ref.seq)

    @staticmethod
    def _look(reader: Reader, seq: int) -> None:
        frame = reader.frame(seq)
        if not reader.valid(frame):
            raise AssertionError("nobody overwrites here")
        reader.move(seq + 1)

    @staticmethod
    def _await(bell: Bell, listener: BellListener) -> None:
        """Until the listener is connected."""
        for _ in range(_PATIENCE_MS):
            bell.ring()
            if listener.socket.poll(1):
                listener.clear()
                return

    def close(self) -> None:
        for context in self._contexts:
            context.destroy(0)
        self._writer.close()
        self._first.close()
        self._second.close()
        self._results.close()
        self._head.close()


def _hear(listener: BellListener) -> None:
    poller = zmq.Poller()
    poller.register(listener.socket, zmq.POLLIN)
    poller.poll(_PATIENCE_MS)
    listener.clear()


def _tracks() -> tuple[Track, ...]:
    return tuple(Track(n, n % 2, 0.9, (100.0 * n, 50.0, 100.0 * n + 60.0, 120.0), True) for n in range(2))
