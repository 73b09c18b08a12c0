"""One pass over something that has a beginning and, perhaps, an end: a video or a series of pictures."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Protocol

from av.error import FFmpegError
from av.video.frame import VideoFrame

from pipeline.capture.clock import StreamClock
from pipeline.capture.convert import Converter
from pipeline.capture.decode import Video, reason_of
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

    def __init__(self, video: Video, name: str, start: Fraction = Fraction(0)) -> None:
        """start: time of the first picture, in seconds."""
        self._video = video
        self._name = name
        self._clock = StreamClock(video.declared_rate, start)
        self._converter = Converter()
        self._count = 0
        self._time_s = float(start)
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

    def close(self) -> None:
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
