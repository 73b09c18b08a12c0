"""The annotator stage: one source's frames and results into one encoded stream, handed to every packet sink.

Draws on its own copy of a frame, encodes once. Its position in the ring moves only past frames that every lossless
sink has stored safely, so that a restarted annotator finds the others still there.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import FrameExpired
from pipeline.sinks.encoder import Encoder
from pipeline.sinks.overlay import Overlay
from pipeline.sinks.sink import PacketSink
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import BellListener
from pipeline.transport.missing import MissingFrames
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader
from pipeline.types import Layout, Result

NEVER_S = float("-inf")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Picture:
    """What belongs to one layout: its encoder and what draws on its planes."""

    layout: Layout
    encoder: Encoder
    overlay: Overlay


class AnnotatorStage:
    """Takes the frames in order; one that was overwritten before it came to be drawn is written down as missing."""

    def __init__(
        self,
        name: str,
        reader: Reader,
        results: ResultLog,
        result_bell: BellListener,
        sinks: Sequence[PacketSink],
        *,
        create_encoder: Callable[[Layout], Encoder],
        create_overlay: Callable[[Layout], Overlay],
    ) -> None:
        self.name = name
        self._reader = reader
        self._results = results
        self._bell = result_bell
        self._sinks = list(sinks)
        self._create_encoder = create_encoder
        self._create_overlay = create_overlay
        self._missing = MissingFrames(reader.head)
        self._picture: _Picture | None = None
        self._next = 0
        self._written = 0
        self._safe_s: list[float] = []
        self._unsafe: deque[tuple[int, float]] = deque()
        self._resume_s = NEVER_S

    def open(self) -> None:
        self._missing.take_up()
        self._safe_s = [_or_never(sink.open()) for sink in self._sinks]
        if any(sink.lossless for sink in self._sinks):
            self._resume_s = self._everywhere_safe_s()
        self._next = self._reader.position
        if self._next:
            log.info("%s goes on at frame %d", self.name, self._next)

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        self._bell.clear()
        if self._next < self._results.published:
            self._take(self._next)
            self._next += 1
            return 0
        if self._results.finished and self._next >= self._results.published:
            self._finish()
            return None
        return BELL_TIMEOUT_S

    def _take(self, seq: int) -> None:
        try:
            result = self._results.result(seq)
            if result.frame.time_s <= self._resume_s:
                self._pass(seq, result.frame.time_s)
                return
            picture = self._draw(seq, result)
        except FrameExpired as error:
            log.debug("%s", error)
            self._missing.note(seq)
            self._pass(seq, NEVER_S)
            return
        for packet in picture.encoder.encode(result.frame):
            self._safe_s = [
                _or_never(sink.write(packet), safe_s) for sink, safe_s in zip(self._sinks, self._safe_s, strict=True)
            ]
            self._written += 1
        self._pass(seq, result.frame.time_s)

    def _draw(self, seq: int, result: Result) -> _Picture:
        """The frame with its boxes in the encoder's planes; raises ``FrameExpired``."""
        frame = self._reader.frame(seq)
        picture = self._picture
        if picture is None or picture.layout != frame.image.layout:
            picture = self._open_picture(frame.image.layout)
        target = picture.encoder.frame()
        frame.image.copy_to(target)
        if not self._reader.valid(frame):
            raise FrameExpired(f"{result.frame.source_id}: frame {seq} was overwritten while it was copied")
        picture.overlay.draw(target, result)
        return picture

    def _open_picture(self, layout: Layout) -> _Picture:
        self._flush()
        encoder = self._create_encoder(layout)
        for sink in self._sinks:
            sink.start(encoder.stream)
        self._picture = _Picture(layout, encoder, self._create_overlay(layout))
        return self._picture

    def _flush(self) -> None:
        for packet in self._picture.encoder.flush() if self._picture else ():
            for sink in self._sinks:
                sink.write(packet)
            self._written += 1
        self._picture = None

    def _pass(self, seq: int, time_s: float) -> None:
        """Frame ``seq`` is dealt with; the position moves as far as everything is safe."""
        self._unsafe.append((seq, time_s))
        safe_s = self._everywhere_safe_s()
        while self._unsafe and self._unsafe[0][1] <= safe_s:
            self._reader.move(self._unsafe.popleft()[0] + 1)

    def _everywhere_safe_s(self) -> float:
        """Up to where every lossless sink would survive kill -9."""
        lossless = [safe_s for sink, safe_s in zip(self._sinks, self._safe_s, strict=True) if sink.lossless]
        return min(lossless, default=float("inf"))

    def _finish(self) -> None:
        self._flush()
        for sink in self._sinks:
            sink.finish()
        self._unsafe.clear()
        self._reader.move(self._results.published)

    @property
    def wakers(self) -> Sequence[Any]:
        return [self._bell.socket]

    @property
    def counters(self) -> dict[str, float]:
        return {"written": self._written}

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self._picture = None
        self._reader.close()


def _or_never(value: float | None, otherwise: float = NEVER_S) -> float:
    return otherwise if value is None else value
