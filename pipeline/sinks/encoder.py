"""One H.264 encoder a source: every output of a source takes its packets, so that nothing is encoded twice."""

from __future__ import annotations

from collections import deque
from fractions import Fraction

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from numpy.typing import NDArray

from pipeline.errors import RuntimeFailure, StartupError
from pipeline.sinks import colour
from pipeline.sinks.sink import CLOCK_HZ, Packet, Stream
from pipeline.specs import EncoderSpec
from pipeline.types import I420, FrameRef, Layout

_NOMINAL_FPS = 30
"""For the level and the rate control only; the timing is that of the packets."""
_FRAMES_PER_GOP_MAX = 250

_LIMITED, _FULL = 1, 2


EncoderConfig = EncoderSpec


class Encoder:
    """Frames in, packets out at once: no B-frames, no look-ahead, one thread, closed groups of pictures.

    ``frame()`` hands out the planes to fill, ``encode`` takes them from there. x264 copies what it needs before
    ``encode`` returns, so that the same planes serve every frame.
    """

    def __init__(self, layout: Layout, config: EncoderSpec | None = None) -> None:
        """Raises ``StartupError`` where this machine has no x264 or x264 refuses the layout."""
        self._config = config or EncoderSpec()
        self._layout = layout
        stream = Stream(layout, b"")
        self._context = open_context(stream, self._config)
        self._stream = Stream(layout, bytes(self._context.extradata or b""))
        self._frame = av.VideoFrame(*stream.coded_size, "yuv420p")
        self._frame.time_base = Fraction(1, CLOCK_HZ)
        # the arrays are views into the frame's memory and keep it alive
        self._coded = [_plane(self._frame, index) for index in range(3)]
        y, u, v = self._coded
        self._image = I420(y[: layout.height, : layout.width], u, v, layout)
        self._last_pts: int | None = None
        self._keyframe_due_s = float("-inf")
        self._waiting: deque[FrameRef] = deque()

    @property
    def stream(self) -> Stream:
        return self._stream

    def frame(self) -> I420:
        """The planes that the next ``encode`` takes: views into the encoder's own memory, the same ones every time."""
        return self._image

    def encode(self, frame: FrameRef, *, keyframe: bool = False) -> list[Packet]:
        """Encodes what now stands in ``frame()`` as the frame of that name, as a keyframe where that is wanted or due.

        Raises ``RuntimeFailure``.
        """
        self._fill_to_even()
        pts = round(frame.time_s * CLOCK_HZ)
        if self._last_pts is not None:
            pts = max(pts, self._last_pts + 1)
        self._last_pts = self._frame.pts = pts
        if keyframe := keyframe or frame.time_s >= self._keyframe_due_s:
            self._keyframe_due_s = frame.time_s + self._config.keyframe_interval_s
        self._frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        self._waiting.append(frame)
        return self._run(self._frame)

    def flush(self) -> list[Packet]:
        """The packets that are still inside (as a rule none); nothing can be encoded afterwards."""
        return self._run(None)

    def _run(self, frame: av.VideoFrame | None) -> list[Packet]:
        try:
            encoded = self._context.encode(frame)
        except av.error.FFmpegError as error:
            raise RuntimeFailure(f"x264 cannot encode: {error}") from error
        return [self._packet(packet) for packet in encoded]

    def _packet(self, packet: av.Packet[av.stream.Stream]) -> Packet:
        frame = self._waiting.popleft()
        assert packet.pts is not None
        return Packet(bytes(packet), packet.is_keyframe, frame.seq, packet.pts, frame.time_s, frame.wall_ns)

    def _fill_to_even(self) -> None:
        y = self._coded[0]
        if self._layout.width % 2:
            y[:, -1] = y[:, -2]
        if self._layout.height % 2:
            y[-1] = y[-2]


def _plane(frame: av.VideoFrame, index: int) -> NDArray[np.uint8]:
    plane = frame.planes[index]
    memory: NDArray[np.uint8] = np.frombuffer(memoryview(plane), np.uint8, plane.line_size * plane.height)
    return memory.reshape(plane.height, plane.line_size)[:, : plane.width]


def open_context(stream: Stream, config: EncoderSpec) -> VideoCodecContext:
    """x264 itself, opened as ``Encoder`` uses it. Raises ``StartupError`` where it is missing or refuses the layout."""
    layout = stream.layout
    try:
        context = av.CodecContext.create("libx264", "w")
    except av.codec.codec.UnknownCodecError as error:
        raise StartupError("this build of FFmpeg has no x264 (libx264): install PyAV from its wheel") from error
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = stream.coded_size
    context.pix_fmt = "yuv420p"
    context.time_base = Fraction(1, CLOCK_HZ)
    context.framerate = Fraction(_NOMINAL_FPS)
    context.sample_aspect_ratio = Fraction(*layout.sample_aspect)
    context.color_range = _FULL if layout.full_range else _LIMITED
    context.color_primaries, context.color_trc, context.colorspace = colour.codes(layout)
    context.thread_count = 1
    context.max_b_frames = 0
    context.gop_size = _FRAMES_PER_GOP_MAX
    context.flags |= Flags.global_header | Flags.closed_gop
    # zerolatency: no look-ahead, a packet for each frame; forced-idr: a forced keyframe is a place to start at
    context.options = {"preset": config.preset, "crf": str(config.crf), "tune": "zerolatency", "forced-idr": "1"}
    try:
        context.open()
    except av.error.FFmpegError as error:
        raise StartupError(f"x264 does not take {layout.width}x{layout.height}: {error}") from error
    return context
