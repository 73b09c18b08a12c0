from __future__ import annotations

import av
import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.errors import RuntimeFailure
from pipeline.sinks.encoder import Encoder
from pipeline.sinks.sink import Packet, Stream
from pipeline.specs import EncoderSpec
from pipeline.types import FrameRef, Layout
from tests.unit.sinks.recordings import encode_with, new_encoder, shade


def decoded(stream: Stream, packets: list[Packet]) -> list[av.VideoFrame]:
    """Any decoder makes pictures of them: what stands in a packet and in the stream is all that it takes."""
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = stream.extradata
    frames: list[av.VideoFrame] = []
    for packet in packets:
        data: av.Packet[av.VideoStream] = av.Packet(packet.data)  # type: ignore[assignment]
        data.pts = packet.pts
        frames += decoder.decode(data)
    frames += decoder.decode(None)
    return frames


def luma(frame: av.VideoFrame) -> int:
    return int(frame.to_ndarray()[frame.height // 2, frame.width // 2])


def test_a_packet_for_each_frame_at_once_whatever_the_rate() -> None:
    encoder = new_encoder()
    times = [0.0, 0.04, 0.041, 0.5, 7.0]
    packets = []
    for index, at_s in enumerate(times):
        (packet,) = encode_with(encoder, [index], lambda _, at_s=at_s: at_s)  # type: ignore[misc]
        packets.append(packet)
    assert encoder.flush() == []
    assert [(p.seq, p.time_s, p.pts) for p in packets] == [(n, t, round(t * 90_000)) for n, t in enumerate(times)]
    pictures = decoded(encoder.stream, packets)
    assert [picture.pts for picture in pictures] == [packet.pts for packet in packets]
    assert [luma(picture) for picture in pictures] == pytest.approx([shade(n) for n in range(5)], abs=2)


def test_times_closer_than_a_tick_stay_in_order() -> None:
    packets = list(encode_with(new_encoder(), range(3), lambda number: 1 + number * 1e-7))
    assert [packet.pts for packet in packets] == [90_000, 90_001, 90_002]


def test_a_keyframe_every_two_seconds_of_the_stream() -> None:
    encoder = new_encoder()
    packets = list(encode_with(encoder, range(12), lambda number: number * 0.5))
    assert [packet.seq for packet in packets if packet.keyframe] == [0, 4, 8]
    late = decoded(encoder.stream, packets[8:])
    assert [luma(picture) for picture in late] == pytest.approx([shade(number) for number in range(8, 12)], abs=2)


def test_the_planes_can_be_overwritten_as_soon_as_encode_returns() -> None:
    encoder = Encoder(Layout(320, 240), EncoderSpec(crf=5))
    rng = np.random.default_rng(1)
    packets, sent = [], []
    for number in range(6):
        image = encoder.frame()
        image.y[:] = np.repeat(np.repeat(rng.integers(40, 200, (15, 20), np.uint8), 16, 0), 16, 1)
        image.u[:], image.v[:] = 90, 160
        sent.append(image.y.copy())
        packets += encoder.encode(FrameRef("gate", number, 0, number / 25, 0, 0))
        image.y[:], image.u[:], image.v[:] = 0, 0, 255
    packets += encoder.flush()
    for picture, y in zip(decoded(encoder.stream, packets), sent, strict=True):
        difference = np.abs(picture.to_ndarray()[:240].astype(int) - y)
        assert difference.mean() < 2


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (63, 48), (64, 47), (338, 641)])
def test_odd_sizes_repeat_the_last_column_and_row(size: tuple[int, int]) -> None:
    width, height = size
    encoder = Encoder(Layout(width, height), EncoderSpec(crf=1))
    image = encoder.frame()
    image.y[:] = np.arange(height)[:, None] % 100 + 50
    image.u[:], image.v[:] = 110, 140
    packets = encoder.encode(FrameRef("gate", 0, 0, 0.0, 0, 0))
    (picture,) = decoded(encoder.stream, packets)
    coded = (width + width % 2, height + height % 2)
    assert (picture.width, picture.height) == coded == encoder.stream.coded_size
    assert abs(luma(picture) - (picture.height // 2 % 100 + 50)) <= 3
    last_row = picture.to_ndarray()[coded[1] - 1, : coded[0]]
    assert np.all(np.abs(last_row.astype(int) - ((height - 1) % 100 + 50)) <= 6)


@pytest.mark.parametrize(
    ("layout", "tags"),
    [
        (Layout(64, 48, "bt601"), (1, 6, 6, 6)),
        (Layout(64, 48, "bt709", full_range=True), (2, 1, 1, 1)),
        (Layout(64, 48, "bt2020"), (1, 9, 14, 9)),
    ],
)
def test_colours_and_pixel_shape_are_in_the_stream(layout: Layout, tags: tuple[int, ...]) -> None:
    encoder = new_encoder(layout)
    (picture,) = decoded(encoder.stream, list(encode_with(encoder, [0])))
    assert (picture.color_range, picture.color_primaries, picture.color_trc, picture.colorspace) == tags


def test_nothing_comes_behind_the_end() -> None:
    encoder = new_encoder()
    encoder.flush()
    with pytest.raises(RuntimeFailure, match="x264"):
        list(encode_with(encoder, [0]))


def test_settings_out_of_range_are_refused() -> None:
    for wrong in ({"preset": "slowest"}, {"crf": 99}, {"keyframe_interval_s": 0}, {"threads": 4}):
        with pytest.raises(ValidationError):
            EncoderSpec.model_validate(wrong)
