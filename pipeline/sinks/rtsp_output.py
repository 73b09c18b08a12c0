"""Encoded video to an RTSP server, packet by packet, without encoding it again."""

from __future__ import annotations

import io
import logging
from fractions import Fraction
from typing import Any

import av

from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream

log = logging.getLogger(__name__)


class RtspOutput:
    """One connection. Every method raises ``FFmpegError`` or ``OSError`` where the other end is gone or refuses."""

    def __init__(self, url: str, transport: str, timeout_s: float, stream: Stream, first: Packet) -> None:
        self.stream = stream
        self._first_pts = first.pts
        options = {"rtsp_transport": transport, "timeout": str(round(timeout_s * 1e6))}
        # FFmpeg learns what the packets are from the beginning of the stream itself
        with av.open(io.BytesIO(stream.extradata + first.data), format="h264") as beginning:
            self._container: Any = av.open(url, "w", format="rtsp", options=options)
            self._track = self._container.add_stream_from_template(beginning.streams.video[0])
            self._track.time_base = Fraction(1, CLOCK_HZ)
            self._container.start_encoding()

    def send(self, packet: Packet) -> None:
        data = self.stream.extradata + packet.data if packet.keyframe else packet.data
        sent = av.Packet(data)
        sent.stream = self._track
        sent.time_base = Fraction(1, CLOCK_HZ)
        sent.pts = sent.dts = packet.pts - self._first_pts
        sent.is_keyframe = packet.keyframe
        self._container.mux(sent)

    def close(self) -> None:
        try:
            self._container.close()
        except (av.error.FFmpegError, OSError):
            log.debug("the other end has gone already")
