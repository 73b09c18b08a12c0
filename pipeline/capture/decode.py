"""Opening and decoding with FFmpeg, for every source that gets its pictures from there."""

from __future__ import annotations

import errno
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.capture.jump import Timeline, scan
from pipeline.capture.tap import PacketTap
from pipeline.errors import ConfigError, StartupError, without_credentials

_FAILURES_MAX = 100
"""So many reading errors in a row, with nothing read between them, end a file."""

_DEFAULT_RATE = Fraction(25)
_MICROSECOND = Fraction(1, 1_000_000)
_OF_THE_MACHINE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_DECLARE_A_DURATION = ("matroska,webm", "flv", "asf")
"""Formats whose header says how long they are; for the rest FFmpeg makes an estimate from what is there."""


@contextmanager
def ffmpeg_messages() -> Iterator[list[tuple[int, str, str]]]:
    """Collects what FFmpeg says in this thread, as (level, part, text); nothing of it reaches the terminal."""
    av.logging.set_skip_repeated(False)
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(av.logging.PANIC)  # prints nothing, and still keeps the last error


def reason_of(error: FFmpegError) -> str:
    """FFmpeg's own words without error numbers and paths."""
    return (error.strerror or type(error).__name__).strip()


def open_video(
    target: str, name: str, *, format_: str | None = None, options: Mapping[str, str] | None = None
) -> Video:
    """Opens ``target`` and finds its video; errors speak of ``name``.

    Raises ``ConfigError`` where FFmpeg cannot read it or there is no video in it, ``StartupError`` where the machine
    lacks memory or file handles.
    """
    with ffmpeg_messages() as messages:
        try:
            container = av.open(target, format=format_, options=dict(options or {}), metadata_errors="replace")
        except FFmpegError as error:
            said = next((text.strip() for level, _, text in messages if level <= av.logging.ERROR), "")
            reason = without_credentials(f"{reason_of(error)} ({said})" if said else reason_of(error))
            if error.errno in _OF_THE_MACHINE:
                raise StartupError(f"{name} cannot be opened: {reason}") from error
            raise ConfigError(f"{name} cannot be read as video: {reason}") from error
    try:
        return Video(container, only_video(container, name), any("Estimating" in text for _, _, text in messages))
    except ConfigError:
        container.close()
        raise


def open_file(path: Path, name: str) -> Video:
    """``open_video`` for a local file, whatever its name looks like; nothing in it can make FFmpeg open an address."""
    return open_video(f"file:{path}", name, options={"protocol_whitelist": "file", "pattern_type": "none"})


def only_video(container: InputContainer, name: str) -> VideoStream:
    """The container's video, to be decoded by one thread. Raises ``ConfigError`` where there is none."""
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.disposition & Disposition.attached_pic:
        held = ", ".join(sorted({stream.type for stream in container.streams} - {"video"}))
        raise ConfigError(f"{name} holds no video" + (f", only {held}" if held else ""))
    if stream.codec_context is None:
        raise ConfigError(f"{name} cannot be decoded: FFmpeg has no decoder for it here")
    stream.codec_context.thread_count = 1
    stream.codec_context.thread_type = "NONE"
    return stream


class Video:
    """One video stream, decoded in order by one thread. What is damaged is counted and passed over."""

    def __init__(self, container: InputContainer, stream: VideoStream, duration_estimated: bool) -> None:
        self._container = container
        self._stream = stream
        self._format = container.format.name
        self._declares_duration = self._format in _DECLARE_A_DURATION and not duration_estimated
        self._frames = self._decode()
        self._reached_s = Fraction(0)
        self._failure: str | None = None
        self._tap: PacketTap | None = None
        self.damaged_packets = 0
        """Packets that the decoder refused; each is a picture that is missing."""

    @property
    def declared_rate(self) -> Fraction:
        """Pictures a second as the file says; 25 where it does not."""
        stream = self._stream
        rates = (stream.average_rate, stream.guessed_rate)
        # Without timestamps the average is FFmpeg's default, and only the codec's own header knows better.
        return next((rate for rate in (rates if stream.start_time is not None else rates[::-1]) if rate), _DEFAULT_RATE)

    @property
    def expected_frames(self) -> int | None:
        """About how many frames there are; None where nobody knows."""
        duration_us = self._container.duration or 0
        return self._stream.frames or round(max(0, duration_us) * _MICROSECOND * self.declared_rate) or None

    @property
    def sample_aspect(self) -> Fraction | None:
        """Width to height of a stored pixel."""
        return self._stream.sample_aspect_ratio

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._container.metadata

    @property
    def time_base(self) -> Fraction:
        """Seconds for one unit of ``timestamp``."""
        return self._stream.time_base or _MICROSECOND

    def timestamp(self, frame: VideoFrame) -> int | None:
        """When the frame is to be shown, in units of ``time_base``; None where the file does not say."""
        # AVI numbers its chunks in decoding order, so that what FFmpeg passes on as pts jumps back and forth.
        return frame.dts if self._format == "avi" else frame.pts

    def tap(self, tap: PacketTap) -> None:
        """From the next packet on ``tap`` gets each as it is."""
        tap.begin(self._stream)
        self._tap = tap

    def read(self) -> VideoFrame | None:
        """The next frame; None at the end, good or not: ``broken_off`` tells."""
        return next(self._frames, None)

    def broken_off(self) -> str | None:
        """After the last frame: why this was not the good end, or None if it was."""
        return self._failure or self._shortfall()

    def scan(self, count: int) -> Timeline | None:
        """When the first ``count`` pictures are to be shown and where decoding may begin; of no use afterwards."""
        return scan(self._container, self._stream, count)

    def jump(self, timestamp: int) -> None:
        """The next ``read`` gives the frame of a ``cut`` of the timeline, if the container's own index is right."""
        self._frames.close()
        self._container.seek(timestamp, stream=self._stream)
        self._frames = self._decode()

    def close(self) -> None:
        self._frames.close()
        self._container.close()

    def _decode(self) -> Generator[VideoFrame, None, None]:
        for packet in self._packets():
            if packet is not None and packet.stream_index != self._stream.index:
                continue
            if self._tap is not None and packet is not None:
                self._tap.packet(packet)
            try:
                frames = self._stream.codec_context.decode(packet)
            except FFmpegError as error:
                self.damaged_packets += 1
                self._failure = reason_of(error)
                continue
            if packet is not None:
                self._failure = "the last packet is incomplete" if packet.is_corrupt else None
            yield from frames

    def _packets(self) -> Iterator[Packet[Stream] | None]:
        """Every packet that can be read and then None, which makes the decoder give what it still holds."""
        # Matroska declares one duration for all its streams, so how far it goes is to be seen on all of them.
        streams = tuple(self._container.streams) if self._declares_duration else (self._stream,)
        failures = 0
        packets = self._container.demux(*streams)
        while failures < _FAILURES_MAX:
            errors_before, _ = av.logging.get_last_error()
            try:
                packet = next(packets)
            except FFmpegError as error:
                failures += 1
                self._failure = reason_of(error)
                packets = self._container.demux(*streams)  # goes on behind the damage
                continue
            if packet.dts is None and packet.pts is None and packet.size == 0:
                self._note_bad_end(errors_before)
                break
            failures = 0
            if packet.size:
                self._note_progress(packet)
                yield packet
        yield None

    def _note_progress(self, packet: Packet[Stream]) -> None:
        if not self._declares_duration and self._format != "avi":
            return
        stamp = packet.dts if packet.pts is None or self._format == "avi" else packet.pts
        if stamp is not None and packet.time_base:
            self._reached_s = max(self._reached_s, (stamp + (packet.duration or 0)) * packet.time_base)

    def _note_bad_end(self, errors_before: int) -> None:
        """A demuxer that meets the end too early says so, but reports a plain end of file."""
        errors, last = av.logging.get_last_error()
        if errors > errors_before and last is not None and last[1] == self._format:
            self._failure = last[2].strip()

    def _shortfall(self) -> str | None:
        if self._format == "avi":
            declared_s = self._stream.frames * self.time_base
        elif self._declares_duration:
            declared_s = (self._container.duration or 0) * _MICROSECOND
        else:
            return None
        if declared_s - self._reached_s <= max(Fraction(1), declared_s / 50):
            return None
        return f"it ends at {float(self._reached_s):.1f} s of the {float(declared_s):.1f} s that it declares"
