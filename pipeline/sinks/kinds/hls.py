"""``kind: hls``: one source's annotated video as a folder that any web server can hand out (RFC 8216)."""

from __future__ import annotations

import fcntl
import os
import re
from collections import deque
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from pipeline.errors import ConfigError, RuntimeFailure
from pipeline.sinks import fmp4
from pipeline.sinks.playlist import Segment, playlist
from pipeline.sinks.sink import CLOCK_HZ, Accepts, Packet, SinkConfig, SinkContext, Stream, Wish

PLAYLIST = "index.m3u8"
_OURS = re.compile(r"(?:(?:header|segment)-(?P<number>\d+)\.(?:mp4|m4s)|index\.m3u8)(?:\.new)?")
_LATE = 2
"""Segments that are kept behind the window: somebody may be reading them."""
_GAP_S = 10.0
"""A frame that comes later than this behind the last begins anew."""


class Config(SinkConfig):
    """directory: a folder a source is made in it, with ``index.m3u8``; what an earlier run left there is replaced.

    segment_s: about how long a segment is; it begins with a keyframe. segments: how many the playlist names.
    """

    accepts: ClassVar[Accepts] = "packets"

    directory: Path
    segment_s: Annotated[float, Field(gt=0, le=60)] = 2.0
    segments: Annotated[int, Field(ge=3, le=1000)] = 6


class Hls:
    """A segment is whole before the playlist names it; the playlist is replaced at once."""

    accepts: ClassVar[Accepts] = "packets"
    lossless: ClassVar[bool] = False

    def __init__(self, config: Config, context: SinkContext) -> None:
        self._config = config
        self._name = context.name
        self._directory = config.directory / (context.source_id or context.name)
        self._lock = -1
        self._reset()

    def _reset(self) -> None:
        self._finished: deque[Segment] = deque()
        self._packets: list[Packet] = []
        self._header = ""
        self._number = self._breaks = 0
        self._anew = False
        self._keyframe_s = float("-inf")

    def open(self) -> None:
        """Raises ``ConfigError`` where the folder cannot be written or another one writes there."""
        self.close()
        self._reset()
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._directory, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in self._directory.iterdir():
                if match := _OURS.fullmatch(path.name):
                    # players that watched before go on: a number is never used twice
                    self._number = max(self._number, int(match["number"] or 0))
                    path.unlink()
        except BlockingIOError as error:
            raise ConfigError(f"sink {self._name}: another one is writing to {self._directory}") from error
        except OSError as error:
            raise ConfigError(f"sink {self._name}: cannot write to {self._directory}: {error.strerror}") from error

    def start(self, stream: Stream) -> None:
        self._end_segment(None)
        self._header = f"header-{self._number + 1}.mp4"
        self._anew = self._number > 0
        self._store(self._header, fmp4.header(stream, {}))

    def wish(self, time_s: float) -> Wish:
        return Wish.KEYFRAME if time_s >= self._keyframe_s + self._config.segment_s else Wish.PACKET

    def write(self, packet: Packet) -> None:
        """Raises ``RuntimeFailure`` where the disk is full or gone."""
        gap = bool(self._packets) and packet.time_s - self._packets[-1].time_s > _GAP_S
        if packet.keyframe and (gap or packet.time_s - self._keyframe_s >= self._config.segment_s * 0.9):
            self._end_segment(None if gap else packet)
            self._anew |= gap
            self._keyframe_s = packet.time_s
        self._packets.append(packet)

    def _end_segment(self, following: Packet | None) -> None:
        """Writes what has come as a segment, up to the frame that follows it, if that is known."""
        packets, self._packets = self._packets, []
        if not packets:
            return
        ends = [packet.pts for packet in packets[1:]]
        ends.append(following.pts if following else packets[-1].pts + _usual_ticks(packets))
        data = b"".join(
            fmp4.fragment(number, packet, packet.pts, end - packet.pts)
            for number, (packet, end) in enumerate(zip(packets, ends, strict=True), 1)
        )
        self._number += 1
        name = f"segment-{self._number}.m4s"
        self._store(name, data)
        duration_s = (ends[-1] - packets[0].pts) / CLOCK_HZ
        self._finished.append(Segment(name, self._header, duration_s, self._anew))
        self._anew = False
        self._drop_old()
        self._publish(ended=False)

    def _drop_old(self) -> None:
        while len(self._finished) > self._config.segments + _LATE:
            old = self._finished.popleft()
            self._breaks += old.anew
            (self._directory / old.name).unlink(missing_ok=True)
            if old.header != self._finished[0].header:
                (self._directory / old.header).unlink(missing_ok=True)

    def _publish(self, *, ended: bool) -> None:
        kept = list(self._finished)
        shown = kept[-self._config.segments :]
        breaks = self._breaks + sum(segment.anew for segment in kept[: len(kept) - len(shown) + 1])
        text = playlist(shown, first=self._number - len(shown) + 1, breaks=breaks, ended=ended)
        self._store(PLAYLIST, text.encode())

    def _store(self, name: str, data: bytes) -> None:
        path = self._directory / name
        new = path.with_name(f"{name}.new")
        try:
            new.write_bytes(data)
            new.replace(path)
        except OSError as error:
            raise RuntimeFailure(f"sink {self._name}: cannot write {path}: {error.strerror}") from error

    def finish(self) -> None:
        self._end_segment(None)
        if self._finished:
            self._publish(ended=True)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _usual_ticks(packets: list[Packet]) -> int:
    """How long a frame lasts here, in ``CLOCK_HZ``."""
    if len(packets) < 2:
        return CLOCK_HZ // 25
    return max(1, (packets[-1].pts - packets[0].pts) // (len(packets) - 1))


def create(config: Config, context: SinkContext) -> Hls:
    return Hls(config, context)
