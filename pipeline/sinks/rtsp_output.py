"""Encoded video to an RTSP server, packet by packet, without encoding it again."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from pipeline.errors import Disconnected, without_credentials
from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream


class RtspOutput:
    """One connection. Raises ``Disconnected`` where the other end is away, refuses, or takes nothing."""

    def __init__(self, url: str, transport: str, timeout_s: float, stream: Stream, first: Packet) -> None:
        self.stream = stream
        self._first_pts = first.pts
        options = {"rtsp_transport": transport, "timeout": str(round(timeout_s * 1e6))}
        with _told():
            # FFmpeg learns what the packets are from the beginning of the stream itself
            with av.open(io.BytesIO(stream.extradata + first.data), format="h264") as beginning:
                self._container: Any = av.open(url, "w", format="rtsp", options=options)
                self._track = self._container.add_stream_from_template(beginning.streams.video[0])
            self._track.time_base = Fraction(1, CLOCK_HZ)
            self._container.start_encoding()

    def send(self, packet: Packet) -> None:
        sent = av.Packet(self.stream.extradata + packet.data if packet.keyframe else packet.data)
        sent.stream = self._track
        sent.time_base = Fraction(1, CLOCK_HZ)
        sent.pts = sent.dts = packet.pts - self._first_pts
        sent.is_keyframe = packet.keyframe
        with _told():
            self._container.mux(sent)

    def close(self) -> None:
        """Also where the other end has gone already."""
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._container.close()


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except (av.error.FFmpegError, OSError) as error:
        raise Disconnected(without_credentials(getattr(error, "strerror", None) or str(error))) from error
