"""One pass over something that has a beginning and, perhaps, an end: a video or a series of pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Protocol

from av.error import FFmpegError
from av.video.frame import VideoFrame

from pipeline.capture.clock import StreamClock
from pipeline.capture.convert import Converter
from pipeline.capture.decode import Video, reason_of
from pipeline.capture.jump import Timeline
from pipeline.capture.tap import PacketTap
from pipeline.errors import SourceBroken
from pipeline.types import Picture

_log = logging.getLogger(__name__)

_FIRST_DIGITAL_VIDEO = datetime(1995, 1, 1, tzinfo=UTC)


class Clip(Protocol):
    """Read once, from the first picture to the last."""

    def read(self) -> Picture | None:
        """The next picture, None at the good end; raises ``SourceBroken`` after the last one of a broken file."""

    def skip(self) -> bool:
        """Passes over the next picture, exactly as ``read`` would; False at the end."""

    def close(self) -> None: ...

    @property
    def end(self) -> Fraction:
        """When, in seconds, a picture after the last one read is due."""

    @property
    def expected_frames(self) -> int | None: ...

    @property
    def start_wall_ns(self) -> int | None: ...


class VideoClip:
    """A video as pictures with times."""

    def __init__(self, video: Video, name: str, start: Fraction = Fraction(0), tap: PacketTap | None = None) -> None:
        """start: time of the first picture, in seconds. tap: gets the packets as they are."""
        self._video = video
        self._name = name
        self._clock = StreamClock(video.declared_rate, start)
        self._converter = Converter()
        self._count = 0
        self._time_s = float(start)
        self._tap = tap
        if tap is not None:
            video.tap(tap)
        self.start_wall_ns = _creation_ns(video.metadata.get("creation_time"))

    def read(self) -> Picture | None:
        frame = self._next()
        if frame is None:
            return None
        try:
            image = self._converter.convert(frame, self._video.sample_aspect)
        except FFmpegError as error:
            raise SourceBroken(
                f"{self._name}: pictures of {frame.format.name} cannot be converted: {reason_of(error)}"
            ) from error
        return Picture(image, self._time_s, frame.is_corrupt)

    def skip(self) -> bool:
        return self._next() is not None

    def jump(self, timeline: Timeline, index: int, count: int) -> bool:
        """Goes on behind the first ``count`` pictures, decoding from the cut at ``index`` on.

        False where anything is not as ``timeline`` says; the clip is of no use then.
        """
        first = self._next()
        if first is None or first.pts != timeline.stamps[0]:
            return False
        self._video.jump(timeline.stamps[index])
        for stamp in timeline.stamps[1:index]:
            self._clock.tick(stamp, self._video.time_base)
        self._count = index
        for stamp in timeline.stamps[index:count]:
            frame = self._next()
            if frame is None or frame.pts != stamp:
                return False
        return True

    def close(self) -> None:
        if self._tap is not None:
            self._tap.end()
        self._video.close()

    @property
    def end(self) -> Fraction:
        return self._clock.next_start

    @property
    def declared_rate(self) -> Fraction:
        return self._video.declared_rate

    @property
    def expected_frames(self) -> int | None:
        return self._video.expected_frames

    def _next(self) -> VideoFrame | None:
        frame = self._video.read()
        if frame is None:
            self._check_end()
            return None
        self._count += 1
        self._time_s = self._clock.tick(self._video.timestamp(frame), self._video.time_base)
        if self._tap is not None:
            self._tap.picture(frame, self._time_s, self._converter.stored(frame, self._video.sample_aspect))
        return frame

    def _check_end(self) -> None:
        reason = self._video.broken_off()
        if self._count == 0:
            raise SourceBroken(f"{self._name} holds no picture that can be decoded" + (f": {reason}" if reason else ""))
        if reason:
            expected = self._video.expected_frames
            of = f"of about {expected} " if expected and expected > self._count else ""
            raise SourceBroken(
                f"{self._name} breaks off after {self._count} {of}frames ({float(self.end):.1f} s): {reason}"
            )
        missing = self._video.damaged_packets
        if missing:
            _log.warning("%s: %d damaged picture%s missing", self._name, missing, " is" if missing == 1 else "s are")


def open_behind(open_: Callable[[], Video], name: str, count: int, last_s: float) -> VideoClip | None:
    """A clip that goes on behind its first ``count`` pictures, the last of which was at ``last_s``.

    None where it cannot be proven that a jump there changes nothing (see ``jump``), or where it gains nothing.
    """
    video = open_()
    try:
        timeline = video.scan(count)
        if timeline is None:
            return None
        index = timeline.cut_before(count - 1)
        clock = StreamClock(video.declared_rate)
        times = [clock.tick(stamp, video.time_base) for stamp in timeline.stamps[:count]]
    finally:
        video.close()
    if times[-1] != last_s or index == 0:
        return None
    clip = VideoClip(open_(), name)
    try:
        if clip.jump(timeline, index, count):
            return clip
    except (SourceBroken, FFmpegError):
        pass  # met again, and reported, on the long way
    clip.close()
    return None


def _creation_ns(text: str | None) -> int | None:
    """``creation_time`` as nanoseconds since 1970; None where it is missing or cannot be true."""
    try:
        created = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    if created.tzinfo is None:
        created = created.replace(tzinfo=UTC)
    if not _FIRST_DIGITAL_VIDEO < created < datetime.now(UTC) + timedelta(days=1):
        return None  # a clock that was never set, in a camera that began at 1904, 1970 or 1980
    return (created - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
