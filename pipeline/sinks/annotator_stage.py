"""The annotator stage: one source's frames and results into one encoded stream, handed to every packet sink.

Draws on its own copy of a frame, encodes once, and only what somebody wants. Its position in the ring moves only past
frames that every lossless sink has stored safely, so that a restarted annotator finds the others still there.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DiskFull, FrameExpired, PipelineError, RuntimeFailure
from pipeline.sinks.encoder import Encoder
from pipeline.sinks.outlet import FOREVER_S, NEVER_S, Outlet
from pipeline.sinks.overlay import Overlay
from pipeline.sinks.sink import Follower, Keeper, Listener, Looker, Packet, PacketSink, Wish
from pipeline.stage import BELL_TIMEOUT_S
from pipeline.transport.channel import BellListener
from pipeline.transport.missing import MissingFrames
from pipeline.transport.results import ResultLog
from pipeline.transport.ring import Reader
from pipeline.types import I420, Layout, Result

BEHIND_MAX = 2
"""Frames; where somebody only watches, the newest is shown instead."""

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
        on_finish: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._reader = reader
        self._results = results
        self._bell = result_bell
        self._outlets = [Outlet(sink) for sink in sinks]
        self._create_encoder = create_encoder
        self._create_overlay = create_overlay
        self._on_finish = on_finish
        self._clock = clock
        self._missing = MissingFrames(reader.head)
        self._picture: _Picture | None = None
        self._paused = self._ending = False
        self._next = 0
        self._written = 0
        self._unsafe: deque[tuple[int, float]] = deque()
        self._resume_s = NEVER_S

    def open(self) -> None:
        self._missing.take_up()
        for outlet in self._outlets:
            outlet.open(self._clock())
        if any(outlet.sink.lossless for outlet in self._outlets):
            self._resume_s = self._everywhere_safe_s()
        self._next = self._reader.position
        if self._next:
            log.info("%s goes on at frame %d", self.name, self._next)

    def stop(self) -> None:
        """Nothing to do: a stream that has ended drains by itself, and the supervisor ends the streams."""

    def step(self) -> float | None:
        """Raises ``RuntimeFailure`` at the end, or with the last sink that failed for good."""
        self._bell.clear()
        if self._next < self._results.published:
            if self._results.published - self._next > BEHIND_MAX and self._hurries():
                self._pass(self._results.published - 2, NEVER_S)
                self._next = self._results.published - 1
            self._take(self._next)
            self._next += 1
            return 0
        if self._results.finished and self._next >= self._results.published:
            self._finish()
            return None
        return BELL_TIMEOUT_S

    def _hurries(self) -> bool:
        """Whether what is shown should be fresh rather than complete: of a live source that nobody keeps."""
        return not self._reader.head.waits and not any(outlet.sink.lossless for outlet in self._outlets)

    def _take(self, seq: int) -> None:
        try:
            result = self._results.result(seq)
            time_s = result.frame.time_s
            if time_s <= self._resume_s:
                self._pass(seq, time_s)
                return
            self._try_again()
            self._hear(time_s)
            self._follow(result)
            wish = max((outlet.sink.wish(time_s) for outlet in self._working), default=Wish.NOTHING)
            if wish is Wish.NOTHING:
                self._paused = True
                self._pass(seq, NEVER_S)
                return
            picture = self._draw(seq, result)
        except FrameExpired as error:
            log.debug("%s", error)
            self._pass(seq, NEVER_S, drawn=False)
            return
        keyframe = self._paused or wish is Wish.KEYFRAME
        self._paused = False
        for packet in picture.encoder.encode(result.frame, keyframe=keyframe):
            self._hand_out(packet)
        self._pass(seq, time_s)

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
        picture.overlay.catch_up(seq, self._results.result)
        picture.overlay.hide(target, result)
        self._show(target, result, drawn=False)
        picture.overlay.mark(target, result)
        self._show(target, result, drawn=True)
        return picture

    def _open_picture(self, layout: Layout) -> _Picture:
        self._flush()
        encoder = self._create_encoder(layout)
        self._each(lambda outlet: outlet.sink.start(encoder.stream))
        self._picture = _Picture(layout, encoder, self._create_overlay(layout))
        return self._picture

    def _flush(self) -> None:
        for packet in self._picture.encoder.flush() if self._picture else ():
            self._hand_out(packet)
        self._picture = None

    # -- the sinks

    @property
    def _working(self) -> list[Outlet]:
        return [outlet for outlet in self._outlets if outlet.failed is None]

    def _each(self, work: Callable[[Outlet], None]) -> None:
        """Raises ``RuntimeFailure`` only when no sink is left, nor may come back: one that fails is no reason to stop
        the others.
        """
        for outlet in self._working:
            try:
                work(outlet)
            except RuntimeFailure as error:
                for_good = self._ending or self._reader.head.waits or isinstance(error, DiskFull)
                outlet.fail(error, self._clock(), self._next, for_good=for_good)
                self._note_lacking(outlet, at_end=for_good)
                if not any(each.failed is None or each.comes_back for each in self._outlets):
                    raise
                self._note_lost(outlet)
                log.error("%s; %s", error, "the other sinks go on" if for_good else "it is tried again")

    def _try_again(self) -> None:
        """Opens what failed a while ago: a disk may be back. Only of live sources, whose frames wait for nobody."""
        now_s = self._clock()
        for outlet in self._outlets:
            if now_s < outlet.again_s or outlet.failed is None:
                continue
            before = outlet.failed
            try:
                outlet.sink.close()
                outlet.open(now_s, self._picture.encoder.stream if self._picture else None)
            except PipelineError as error:
                outlet.fail(error, now_s, self._next, for_good=False)
                if str(error) != str(before):
                    log.error("%s; it is tried again", error)
            else:
                self._paused = True  # it begins with a keyframe
                log.warning("%s: works again, after %.0f s without: %s", self.name, now_s - outlet.failed_s, before)

    def _hand_out(self, packet: Packet) -> None:
        def write(outlet: Outlet) -> None:
            safe_s = outlet.sink.write(packet)
            outlet.safe_s = outlet.safe_s if safe_s is None else safe_s

        self._each(write)
        self._written += 1

    def _follow(self, result: Result) -> None:
        def follow(outlet: Outlet) -> None:
            if isinstance(outlet.sink, Follower):
                outlet.sink.follow(result)
                self._note_lacking(outlet, at_end=False)

        self._each(follow)

    def _note_lacking(self, outlet: Outlet, *, at_end: bool) -> None:
        if isinstance(outlet.sink, Keeper):
            outage = range(outlet.failed_seq, self._next) if at_end and outlet.failed else ()
            for seq in sorted({*outlet.sink.lacking(at_end=at_end), *outage}):
                if not at_end or seq < self._next:
                    self._missing.note(seq)

    def _note_lost(self, outlet: Outlet) -> None:
        """What a sink that has failed was handed and did not store is not handed to it again."""
        for seq, time_s in self._unsafe:
            if outlet.sink.lossless and time_s > outlet.safe_s:
                self._missing.note(seq)

    def _show(self, image: I420, result: Result, *, drawn: bool) -> None:
        def look(outlet: Outlet) -> None:
            if isinstance(outlet.sink, Looker):
                outlet.sink.look(image, result, drawn=drawn)

        self._each(look)

    def _hear(self, time_s: float) -> None:
        """Tells those who listen what was said of frames up to ``time_s``."""

        def hear(outlet: Outlet) -> None:
            sink = outlet.sink
            while isinstance(sink, Listener) and sink.heard < self._results.events_published:
                try:
                    event = self._results.event(sink.heard)
                except FrameExpired:
                    sink.heard += 1
                    continue
                if event.stream_s > time_s:
                    return
                sink.hear(event)
                sink.heard += 1

        self._each(hear)

    def _pass(self, seq: int, time_s: float, *, drawn: bool = True) -> None:
        """The frames up to ``seq`` are dealt with; the position moves as far as everything is safe. drawn: false where
        it was overwritten before anybody had it who takes what is drawn.
        """
        if any(outlet.loses or (outlet.sink.lossless and not drawn) for outlet in self._outlets):
            for each in range(self._next, seq + 1):
                self._missing.note(each)
        self._unsafe.append((seq, time_s))
        safe_s = self._everywhere_safe_s()
        while self._unsafe and self._unsafe[0][1] <= safe_s:
            self._reader.move(self._unsafe.popleft()[0] + 1)

    def _everywhere_safe_s(self) -> float:
        """Up to where every lossless sink would survive kill -9."""
        return min((outlet.safe_s for outlet in self._working if outlet.sink.lossless), default=FOREVER_S)

    def _finish(self) -> None:
        self._ending = True
        self._hear(FOREVER_S)
        self._flush()
        self._each(self._finish_one)
        for outlet in self._outlets:
            if outlet.comes_back:  # it might have, until now
                self._note_lacking(outlet, at_end=True)
        self._unsafe.clear()
        self._reader.move(self._results.published)
        if self._on_finish:
            self._on_finish()
        for outlet in self._outlets:
            if outlet.failed:
                raise outlet.failed

    def _finish_one(self, outlet: Outlet) -> None:
        outlet.sink.finish()
        self._note_lacking(outlet, at_end=True)

    @property
    def wakers(self) -> Sequence[Any]:
        return [self._bell.socket]

    @property
    def counters(self) -> dict[str, float]:
        return {"written": self._written}

    def close(self) -> None:
        for outlet in self._outlets:
            outlet.sink.close()
        self._picture = None
        self._reader.close()
