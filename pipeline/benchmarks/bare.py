"""The least that the job takes: decoding, model and encoding in one loop of one process, and nothing else.

Strict with the pipeline: the frame goes from the decoder to the encoder as it is, with no copy, no drawing and nothing
written; the network gets one ready tensor, the same for every frame; its output is thrown away. Decoder, network and
encoder are opened as in the pipeline: one thread each, x264 with the same settings and keyframes.

``python -m pipeline.benchmarks.bare`` is one such process. It reads a ``Task`` from its first line of input, says
``ready``, waits for a second line and answers with a ``Timing``, so that several can begin together.
"""

from __future__ import annotations

import logging
import sys
import time
from itertools import count
from pathlib import Path

import av
import msgspec
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.stream import VideoStream
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.inference.backend import Backend
from pipeline.inference.detector import build_detector
from pipeline.sinks.encoder import EncoderConfig, open_context
from pipeline.sinks.sink import CLOCK_HZ, Stream
from pipeline.types import Layout

READY, GO = "ready", "go"
NOMINAL_FPS = 25
KEYFRAME_EVERY = 50
"""Frames: two seconds of the videos made here, as the pipeline's encoder sets them."""


class Task(msgspec.Struct, frozen=True):
    """What one bare process is to do."""

    video: str
    preset: str
    model: str
    backend: str
    models_dir: str | None = None


class Timing(msgspec.Struct, frozen=True):
    """finished_ns: monotonic clock behind each frame. The others: processor time of each step of each frame."""

    finished_ns: list[int]
    decode_ns: list[int]
    model_ns: list[int]
    encode_ns: list[int]


class Failed(msgspec.Struct, frozen=True):
    """Instead of ``Timing`` or ``ready``: what the user must be told."""

    error: str
    exit_code: int


def measure(task: Task, backend: Backend, tensor: NDArray[np.float32]) -> Timing:
    """The loop, from the first frame to the last."""
    timing = Timing([], [], [], [])
    with av.open(task.video) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.thread_type = "NONE"
        encoder = _open_encoder(stream, task.preset)
        frames = container.decode(stream)
        for number in count():
            started = time.process_time_ns()
            frame = next(frames, None)
            decoded = time.process_time_ns()
            if frame is None:
                break
            backend.infer(tensor)
            inferred = time.process_time_ns()
            frame.pict_type = PictureType.NONE if number % KEYFRAME_EVERY else PictureType.I
            frame.time_base, frame.pts = encoder.time_base, number * CLOCK_HZ // NOMINAL_FPS
            encoder.encode(frame)
            encoded = time.process_time_ns()
            timing.finished_ns.append(time.monotonic_ns())
            timing.decode_ns.append(decoded - started)
            timing.model_ns.append(inferred - decoded)
            timing.encode_ns.append(encoded - inferred)
    return timing


def _open_encoder(stream: VideoStream, preset: str) -> VideoCodecContext:
    layout = Layout(stream.width, stream.height)
    return open_context(Stream(layout, b""), EncoderConfig.model_validate({"preset": preset}))


def main() -> int:
    task = msgspec.json.decode(sys.stdin.buffer.readline(), type=Task)
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    try:
        detector = build_detector(
            task.model, task.backend, models_dir=Path(task.models_dir) if task.models_dir else None
        )
    except PipelineError as error:
        print(msgspec.json.encode(Failed(str(error), error.exit_code)).decode(), flush=True)
        return error.exit_code
    size = detector.card.input
    tensor = np.random.default_rng(0).random((1, 3, size.height, size.width), np.float32)
    print(READY, flush=True)
    if sys.stdin.readline().strip() == GO:
        print(msgspec.json.encode(measure(task, detector.backend, tensor)).decode(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
