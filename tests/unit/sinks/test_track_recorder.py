"""The recorder of a source's own packets: which it stores and which frames it lacks, where some are not in the ring."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from pipeline.sinks.kinds.recorder import Config, create
from pipeline.sinks.originals import Originals
from pipeline.sinks.sink import Wish
from pipeline.transport.packet_ring import Description, PacketRing
from pipeline.types import FrameRef, Result
from tests.unit.sinks.recordings import SMALL, context, encode_with, frames, new_encoder
from tests.unit.sinks.segmented import files

FPS, GOP = 25, 5
RING_BYTES = 40_960


class Bench:
    """A source of numbered pictures, the ring that its packets go into, and where they are recorded."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ring = PacketRing.create(place / "gate.originals", RING_BYTES)
        self.followed = 0
        self._encoder = new_encoder()
        extradata = self._encoder.stream.extradata
        self.ring.begin(
            msgspec.msgpack.encode(Description("h264", extradata, SMALL.width, SMALL.height, "bt709", False, (1, 1)))
        )

    def capture(self, shown: Sequence[int], *, too_large: Sequence[int] = (), filler: int = 0) -> None:
        """filler: bytes that nobody looks at, a packet."""
        for packet in encode_with(self._encoder, shown, wish=_keyframe):
            self.ring.append(
                bytes(RING_BYTES) if packet.seq in too_large else packet.data + _filling(filler),
                keyframe=packet.keyframe,
                seq=self.ring.next_number,
                pts=packet.pts,
                time_s=packet.time_s,
                wall_ns=packet.wall_ns,
                frame=packet.seq,
            )

    def recorder(self) -> Originals:
        config = Config(directory=self.place / "recordings", segment_s=60, overlay="track")
        sink = create(config, replace(context(self.place), packets=self.place / "gate.originals"))
        assert isinstance(sink, Originals)
        sink.open()
        return sink

    def follow(self, sink: Originals, to: int) -> list[int]:
        """Results of the frames before ``to``; returns which it says it lacks."""
        told: list[int] = []
        for frame in range(self.followed, to):
            sink.follow(Result(FrameRef("gate", frame, 0, frame / FPS, 0, 0), (), True))
            told += sink.lacking(at_end=False)
        self.followed = to
        return told

    def finish(self, sink: Originals) -> list[int]:
        sink.finish()
        told = list(sink.lacking(at_end=True))
        sink.close()
        return told

    def times(self) -> list[int]:
        """Of the stored pictures, in frames behind the first."""
        [name] = [name for name in files(self.place) if name.endswith(".mp4")]
        return [round(pts * FPS / 90_000) for pts, _ in frames(self.place / "recordings" / name)]


def _keyframe(time_s: float) -> Wish:
    return Wish.PACKET if round(time_s * FPS) % GOP else Wish.KEYFRAME


def _filling(count: int) -> bytes:
    return b"\0\0\0\1\x0c" + b"\xff" * count + b"\x80" if count else b""


@pytest.mark.parametrize("killed_at", [0, 5, 12, 13, 15, 19, 30])
def test_what_was_too_large_costs_its_group_of_pictures_also_after_a_restart(tmp_path: Path, killed_at: int) -> None:
    """All packets are in the ring when the second process comes."""
    bench = Bench(tmp_path)
    bench.capture(range(killed_at), too_large=[12])
    first = bench.recorder()
    told = bench.follow(first, killed_at)
    first.close()
    bench.capture(range(killed_at, 30), too_large=[12])
    second = bench.recorder()
    told += bench.follow(second, 30) + bench.finish(second)
    assert sorted(set(told)) == [12, 13, 14]
    assert bench.times() == [n for n in range(30) if n not in (12, 13, 14)]


def test_a_recorder_that_is_opened_again_stores_what_is_in_the_ring_and_counts_what_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.capture(range(10))
    sink = bench.recorder()
    assert bench.follow(sink, 10) == []
    sink.close()
    bench.capture(range(10, 100), filler=1000)  # the ring holds about forty
    bench.followed = 99
    sink.open()
    told = bench.follow(sink, 100) + bench.finish(sink)
    assert told == list(range(10, told[-1] + 1))
    assert told[-1] % GOP == GOP - 1
    assert 50 < told[-1] < 90
    assert bench.times() == [*range(10), *range(told[-1] + 1, 100)]


def test_a_process_that_comes_after_all_that_was_stored_is_gone_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path)
    bench.capture(range(10))
    first = bench.recorder()
    bench.follow(first, 10)
    first.close()
    bench.capture(range(10, 100), filler=1000)
    bench.followed = 99
    second = bench.recorder()
    with caplog.at_level(logging.WARNING):
        told = bench.follow(second, 100)
    assert "before frame 99 is not counted" in caplog.text
    told += bench.finish(second)
    stored = bench.times()
    assert stored[10] % GOP == 0
    assert stored[10:] == list(range(stored[10], 100))
    assert set(told) <= set(range(10, stored[10]))


def test_where_no_packet_comes_every_frame_is_told_as_missing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    sink = bench.recorder()
    told = bench.follow(sink, 400)
    assert told == list(range(len(told)))
    assert len(told) > 100
    assert told + bench.finish(sink) == list(range(400))
