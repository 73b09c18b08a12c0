"""One connection to a live video, by FFmpeg: from packets to pictures, with what is damaged marked."""

from __future__ import annotations

import errno
import gc
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame

from pipeline.capture.clock import LiveClock
from pipeline.capture.convert import Converter
from pipeline.capture.decode import ffmpeg_messages, only_video, reason_of
from pipeline.capture.overload import KEYS_ONLY, LEAVE_OUT, Overload
from pipeline.capture.source import Pacing, SourceLost
from pipeline.capture.tap import PacketTap
from pipeline.errors import ConfigError, StartupError, without_credentials
from pipeline.types import Picture, SourceReason

PICTURELESS_S = 30.0
"""Packets that give no clean picture for so long are not video that anybody can watch; key frames may be rare."""

_REASONS: tuple[tuple[type[Exception], SourceReason], ...] = (
    (av.error.HTTPUnauthorizedError, "unauthorised"),
    (av.error.HTTPForbiddenError, "unauthorised"),
    (av.error.HTTPClientError, "no such stream"),
    (av.error.HTTPServerError, "refused"),
    (ConnectionRefusedError, "refused"),
    (ConnectionResetError, "ended"),
    (BrokenPipeError, "ended"),
    (TimeoutError, "timeout"),
    (av.error.ExitError, "timeout"),
    (av.error.EOFError, "ended"),
    (PermissionError, "unauthorised"),
    (av.error.InvalidDataError, "not video"),
)
_GONE = (errno.ENODEV, errno.ENXIO, errno.ENOENT)
_OUT_OF_REACH = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EIO)
_CUT_SHORT = "Stream ends prematurely"
"""What FFmpeg says where a web server's answer has ended before there was any video in it."""


class Gate:
    """What of a live video may be looked at: nothing before the first clean key frame, and nothing from a loss on
    until the next one.
    """

    def __init__(self) -> None:
        self._begun = False
        self._damaged = False
        self._lost_pts: int | None = None

    def lost(self, pts: int | None) -> None:
        """Something is missing in or behind the packet of that timestamp."""
        self._damaged, self._lost_pts = True, pts

    def damaged(self, pts: int | None, *, keyframe: bool, corrupt: bool) -> bool | None:
        """Whether the next decoded picture is damaged, or None where it must not be shown at all."""
        behind = pts is None or self._lost_pts is None or pts > self._lost_pts
        if corrupt:
            self._damaged = True
        elif keyframe and behind:
            self._begun, self._damaged, self._lost_pts = True, False, None
        return self._damaged if self._begun else None


class LiveVideo:
    """Opened when it is made; read until it raises ``SourceLost``; closed once."""

    def __init__(
        self, target: str, name: str, *, stall_s: float, format_: str | None, options: Mapping[str, str]
    ) -> None:
        """Raises ``SourceLost``, whose text speaks of ``name``; ``StartupError`` where FFmpeg lacks the protocol."""
        self._name = name
        self._stall_s = stall_s
        self._stack = ExitStack()
        self._messages = self._stack.enter_context(ffmpeg_messages())
        self.heard_s = self._picture_s = time.monotonic()
        self._waited_s = 0.0
        try:
            self._container = self._open(target, format_, options)
            self._stream = only_video(self._container, name)
        except ConfigError as error:
            self._stack.close()
            raise SourceLost(str(error), "not video") from None
        except BaseException:
            self._stack.close()
            raise
        self._packets: Iterator[Packet[Stream]] = self._container.demux(*self._container.streams)
        self._frames: deque[VideoFrame] = deque()
        self._gate = Gate()
        self._clock = LiveClock()
        self._converter = Converter()
        self._overload = Overload(self.heard_s)
        self._tap: PacketTap | None = None
        self._messages.clear()
        self.undecoded = 0

    def _open(self, target: str, format_: str | None, options: Mapping[str, str]) -> InputContainer:
        try:
            container = av.open(
                target, format=format_, options=dict(options), timeout=self._stall_s, metadata_errors="replace"
            )
        except FFmpegError as error:
            if isinstance(error, av.error.ProtocolNotFoundError) and not is_built_in(target):
                raise StartupError(f"{self._name}: the FFmpeg that is installed here has no such protocol") from None
            raise self._lost(error) from None  # FFmpeg's own error holds the address and with it the password
        self._stack.callback(container.close)
        return container

    def tap(self, tap: PacketTap) -> None:
        """From the next packet on ``tap`` gets each as it is."""
        tap.begin(self._stream)
        self._tap = tap

    def read(self) -> Picture:
        """The next picture; its time is on the monotonic clock. Raises ``SourceLost``."""
        while True:
            while self._frames:
                picture = self._picture(self._frames.popleft())
                if picture is not None:
                    return picture
            self.receive()

    def receive(self) -> None:
        """Takes the next packet of video and decodes it. Raises ``SourceLost``."""
        self._decode(self._next_packet())

    def _next_packet(self) -> Packet[Stream]:
        while True:
            asked_s = time.monotonic()
            try:
                packet = next(self._packets)
            except StopIteration:
                raise SourceLost(f"{self._name} has ended", "ended") from None
            except FFmpegError as error:
                raise self._lost(error, connected=True) from None
            now_s = time.monotonic()
            self._waited_s += now_s - asked_s
            self._overload.waited_s += now_s - asked_s
            # at its timeout FFmpeg first hands out what it still holds, as if nothing were the matter
            if self._waited_s >= self._stall_s:
                raise SourceLost(f"{self._name}: no video has come for {self._stall_s:g} s", "timeout")
            if packet.stream_index == self._stream.index and packet.size:
                self._waited_s, self.heard_s = 0.0, now_s
                return packet

    def _decode(self, packet: Packet[Stream]) -> None:
        if self._something_is_missing() or packet.is_corrupt:
            self._gate.lost(packet.pts)
        self._overload.packet(self.heard_s, self._clock.lag_s, keyframe=packet.is_keyframe)
        if self._tap is not None:
            self._tap.packet(packet)
        try:
            frames = self._frames_of(packet)
        except FFmpegError:
            self._gate.lost(packet.pts)
            frames = []
        if self._something_is_missing():
            self._gate.lost(packet.pts)
        if not frames and self._overload.level:
            self.undecoded += 1
        self._frames.extend(frames)
        if self.heard_s - self._picture_s > max(PICTURELESS_S, self._stall_s):
            raise SourceLost(f"{self._name}: what comes cannot be decoded", "decode")

    def _frames_of(self, packet: Packet[Stream]) -> list[VideoFrame]:
        decoder = self._stream.codec_context
        decoder.skip_frame = LEAVE_OUT[self._overload.level]
        frames = decoder.decode(packet)
        if self._overload.level == KEYS_ONLY and packet.is_keyframe:  # nothing that is decoded now could come before it
            frames += decoder.decode(None)
            decoder.flush_buffers()
        return frames

    def _something_is_missing(self) -> bool:
        """Whether FFmpeg has complained since the last time: lost packets raise nothing and mark nothing."""
        codec = self._stream.codec_context.name
        missing = any(
            (level <= av.logging.ERROR and part == codec) or "RTP: missed" in text
            for level, part, text in self._messages
        )
        self._messages.clear()
        return missing

    def _picture(self, frame: VideoFrame) -> Picture | None:
        arrival_s = time.monotonic()
        stamp_s = None if frame.pts is None or frame.time_base is None else float(frame.pts * frame.time_base)
        time_s = self._clock.tick(stamp_s, arrival_s)
        damaged = self._gate.damaged(frame.pts, keyframe=frame.key_frame, corrupt=frame.is_corrupt)
        if damaged is None:
            return None
        if not damaged:
            self._picture_s = arrival_s
        try:
            image = self._converter.convert(frame, self._stream.sample_aspect_ratio)
        except (FFmpegError, ValueError) as error:
            raise SourceLost(f"{self._name}: pictures cannot be converted: {error}", "decode") from None
        if self._tap is not None:
            self._tap.picture(frame, time_s, self._converter.stored(frame, self._stream.sample_aspect_ratio))
        return Picture(image, time_s, damaged)

    def _lost(self, error: FFmpegError, *, connected: bool = False) -> SourceLost:
        said = next((text.strip() for level, _, text in self._messages if level <= av.logging.ERROR), "")
        late = time.monotonic() - self.heard_s >= self._stall_s
        if connected and not late and error.errno == errno.EIO:
            return SourceLost(f"{self._name} has ended", "ended")
        reason = "timeout" if late else reason_for(error, said)
        if reason == "not video" and not connected:
            return SourceLost(f"{self._name} answers, but not with video", reason)
        text = f"nothing has come for {self._stall_s:g} s" if late else reason_of(error)
        if said and reason in ("failed", "not video", "unreachable"):
            text += f" ({said})"
        return SourceLost(f"{self._name}: {without_credentials(text)}", reason)

    @property
    def codec(self) -> str:
        return self._stream.codec_context.name

    @property
    def declared_fps(self) -> float | None:
        rate = self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def close(self) -> None:
        self._frames.clear()
        self._stack.close()


class LiveFeed(ABC):
    """A live source: one ``LiveVideo`` after the other."""

    pacing: Pacing = "live"
    damage_advice = ""
    start_wall_ns = None
    expected_frames = None

    def __init__(self, *, stall_s: float, reconnect_max_s: float) -> None:
        self.stall_s = stall_s
        self.reconnect_max_s = reconnect_max_s
        self._video: LiveVideo | None = None
        self.tap: PacketTap | None = None
        self._heard_s = time.monotonic()
        self._undecoded = 0

    @abstractmethod
    def connect(self) -> LiveVideo:
        """Raises ``SourceLost`` or ``StartupError``."""

    def open(self) -> None:
        self.close()
        self._heard_s = time.monotonic()
        self._video = self.connect()
        if self.tap is not None:
            self._video.tap(self.tap)

    def seek(self, seq: int, last_s: float | None = None) -> None:  # noqa: ARG002
        return  # what was missed is gone

    def read(self) -> Picture:
        assert self._video is not None, "open comes before read"
        return self._video.read()

    def close(self) -> None:
        video = self._video
        if video is not None:
            self._heard_s = video.heard_s
            self._video = None
            self._undecoded += video.undecoded
            if self.tap is not None:
                self.tap.end()
            video.close()
            del video
            gc.collect()  # PyAV's container and its streams hold each other, and with them the decoder's pictures

    @property
    def heard_s(self) -> float:
        video = self._video  # another thread may close it meanwhile
        return self._heard_s if video is None else video.heard_s

    @property
    def undecoded(self) -> int:
        video = self._video
        return self._undecoded + (0 if video is None else video.undecoded)

    @property
    def renewed(self) -> bool:
        return False


def is_built_in(address: str) -> bool:
    """Whether FFmpeg has the protocol of this address itself; where a server leads on to is another matter.

    Nothing is connected to: with nothing allowed FFmpeg goes no further than to look the protocol up.
    """
    try:
        av.open(address, options={"protocol_whitelist": "none"}).close()
    except av.error.ProtocolNotFoundError:
        return False
    except FFmpegError:
        pass
    return True


def reason_for(error: FFmpegError, said: str) -> SourceReason:
    """One word for FFmpeg's error; said: what it printed with it."""
    if error.errno in _GONE:
        return "no device"
    if _CUT_SHORT in said:
        return "not video"
    if error.errno in _OUT_OF_REACH or "resolve" in said:
        return "unreachable"
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "failed")
