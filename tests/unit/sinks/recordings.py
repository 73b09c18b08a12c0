"""Makes packets whose pictures can be told apart, and reads recordings back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import av

from pipeline.sinks.encoder import Encoder
from pipeline.sinks.sink import Packet, PacketSink, SinkContext, Stream, Wish
from pipeline.specs import EncoderSpec
from pipeline.types import FrameRef, Layout

SMALL = Layout(64, 48)
WALL_NS = 1_795_000_000_000_000_000  # 2026-11-18 11:06:40 UTC
STEP = 7


def shade(number: int) -> int:
    """The luma of the whole picture of that frame: neighbours differ by far more than the encoder loses."""
    return 30 + number * STEP % 190


def encode(
    numbers: Sequence[int], layout: Layout = SMALL, time_s: Callable[[int], float] | None = None
) -> Iterator[Packet]:
    """Frames of those numbers by an encoder of their own, 25 a second unless ``time_s`` says otherwise."""
    yield from encode_with(new_encoder(layout), numbers, time_s)


def new_encoder(layout: Layout = SMALL) -> Encoder:
    return Encoder(layout, EncoderSpec(crf=10))


def encode_with(
    encoder: Encoder,
    numbers: Sequence[int],
    time_s: Callable[[int], float] | None = None,
    wish: Callable[[float], Wish] = lambda _: Wish.PACKET,
) -> Iterator[Packet]:
    for number in numbers:
        image = encoder.frame()
        image.y[:] = shade(number)
        image.u[:] = image.v[:] = 128
        at_s = time_s(number) if time_s else number / 25
        frame = FrameRef("gate", number, 0, at_s, 0, WALL_NS + round(at_s * 1e9))
        yield from encoder.encode(frame, keyframe=wish(at_s) is Wish.KEYFRAME)


def context(tmp_path: Path, run_id: str = "run-1", *, restarted: bool = False) -> SinkContext:
    state = tmp_path / "state" / run_id
    state.mkdir(parents=True, exist_ok=True)
    return SinkContext("video", run_id, state, "gate", restarted)


def record(sink: PacketSink, numbers: Sequence[int], layout: Layout = SMALL, safe_s: float = float("-inf")) -> None:
    """Writes those frames as one encoder's stream, and checks that each is said to be safe at once.

    safe_s: up to where all is stored already.
    """
    encoder = new_encoder(layout)
    sink.start(encoder.stream)
    for packet in encode_with(encoder, numbers, wish=sink.wish):
        assert sink.write(packet) == max(packet.time_s, safe_s)


def frames(path: Path) -> list[tuple[int, int]]:
    """(pts in 1/90000 s, luma of the middle) of every frame that can be decoded."""
    with av.open(str(path)) as file:
        track = file.streams.video[0]
        assert str(track.time_base) == "1/90000"
        return [
            (_pts(frame), int(frame.to_ndarray()[frame.height // 2, frame.width // 2])) for frame in file.decode(track)
        ]


def _pts(frame: av.VideoFrame) -> int:
    assert frame.pts is not None
    return frame.pts


def numbers(path: Path) -> list[int]:
    """Which frames a recording holds, by the luma that ``encode`` gave them and their place."""
    found: list[int] = []
    for _, luma in frames(path):
        start = found[-1] + 1 if found else 0
        found.append(next(number for number in range(start, start + 40) if abs(shade(number) - luma) <= STEP // 2 - 1))
    return found


def stream_of(layout: Layout = SMALL) -> Stream:
    return new_encoder(layout).stream
