"""A source's own packets, put beside the frame ring."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import av
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.capture import nal
from pipeline.capture.live import LiveFeed, LiveVideo
from pipeline.capture.tap import CLOCK_HZ, PacketTap
from pipeline.transport.packet_ring import NO_FRAME, Description, PacketRing
from pipeline.types import Layout
from tests.media import write_moving

LAYOUT = Layout(64, 48)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_moving(tmp_path_factory.mktemp("video") / "a.mp4", 60, gop=10)


def play(
    video: Path,
    tap: PacketTap,
    *,
    drift_s: Callable[[int], float] = lambda _: 0.0,
    packets: int = 60,
    size_is_known: bool = True,
) -> None:
    """As a capture does: each packet before it is decoded, each picture behind."""
    with av.open(str(video)) as file:
        stream = file.streams.video[0]
        if not size_is_known:
            stream.codec_context.width = stream.codec_context.height = 0
        tap.begin(stream)
        for number, packet in enumerate(file.demux(stream)):
            if number >= packets and packet.size:
                return  # killed
            tap.packet(packet)
            for frame in stream.codec_context.decode(packet):
                assert frame.pts is not None
                stamp_s = float(frame.pts * Fraction(frame.time_base or 0))
                tap.picture(frame, stamp_s + drift_s(number), LAYOUT)
        tap.end()


def ring_in(place: Path) -> PacketRing:
    return PacketRing.create(place / "gate.originals", 1_000_000)


def times(ring: PacketRing) -> list[float]:
    return [round(packet.time_s * 25, 3) for packet in ring.since(-1.0)]


def test_every_packet_has_its_place_on_the_sources_clock(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    play(
        video,
        PacketTap(ring, origin_s=0.0, wall_ns=lambda time_s: round(time_s * 1e9) + 5, next_frame=count().__next__),
    )
    stored = ring.since(-1.0)
    assert times(ring) == [float(n) for n in range(60)]
    assert [packet.keyframe for packet in stored] == [n % 10 == 0 for n in range(60)]
    assert stored[10].wall_ns == 400_000_005
    assert [(packet.seq, packet.delay, packet.frame) for packet in stored] == [(n, 0, n) for n in range(60)]
    said = msgspec.msgpack.decode(ring.description, type=Description)
    assert (said.codec, said.width, said.height) == ("h264", 64, 48)
    decoder = av.CodecContext.create("h264", "r")
    decoder.extradata = said.extradata
    frames = [frame for packet in stored for frame in decoder.decode(av.Packet(packet.data))] + decoder.decode(None)
    assert len(frames) == 60


def test_pictures_that_are_shown_later_than_decoded_say_by_how_much(tmp_path: Path) -> None:
    options = {"preset": "veryfast", "qp": "18", "x264-params": "bframes=2:b-adapt=0"}
    video = write_moving(tmp_path / "b.mp4", 60, gop=10, options=options)
    ring = ring_in(tmp_path)
    play(video, PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__))
    shown = sorted(round(packet.time_s * 25 + packet.delay * 25 / CLOCK_HZ, 3) for packet in ring.since(-1.0))
    assert shown == [float(n) for n in range(60)]
    assert len({packet.delay for packet in ring.since(-1.0)}) > 2


def test_a_stream_that_says_its_size_late_is_described_all_the_same(video: Path, tmp_path: Path) -> None:
    """As one that is joined between two key frames."""
    ring = ring_in(tmp_path)
    play(video, PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__), size_is_known=False)
    said = msgspec.msgpack.decode(ring.description, type=Description)
    assert (said.width, said.height) == (LAYOUT.width, LAYOUT.height)


def test_a_capture_that_is_started_again_writes_nothing_twice(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    play(video, PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__), packets=33)
    play(video, PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__))
    assert times(ring) == [float(n) for n in range(60)]


def test_clocks_that_drift_apart_are_brought_together_at_keyframes(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    play(
        video,
        PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__),
        drift_s=lambda n: -0.001 * n,
    )
    found = [packet.time_s for packet in ring.since(-1.0)]
    assert found == sorted(set(found))
    assert len(found) == 60
    assert found[50] == pytest.approx(50 / 25 - 0.05, abs=0.002)


def play_live(
    video: Path,
    tap: PacketTap,
    *,
    change: Callable[[int, av.Packet[Any]], None] = lambda *_: None,
    layout: Callable[[int], Layout] = lambda _: LAYOUT,
    is_lost: Callable[[int], bool] = lambda _: False,
) -> None:
    """Picture ``n`` is of ``100 + n / 25`` on the clock of the machine, whatever its timestamp says."""
    shown = count()
    with av.open(str(video)) as file:
        stream = file.streams.video[0]
        tap.begin(stream)
        for number, packet in enumerate(file.demux(stream)):
            if packet.size:
                change(number, packet)
                tap.packet(packet)
            for frame in stream.codec_context.decode(packet):
                if not is_lost(index := next(shown)):
                    tap.picture(frame, 100 + index / 25, layout(index))
        tap.end()


def unstamped(_: int, packet: av.Packet[Any]) -> None:
    packet.pts = packet.dts = None


def jumping(number: int, packet: av.Packet[Any]) -> None:
    assert packet.time_base is not None
    assert packet.pts is not None
    assert packet.dts is not None
    leap = round((3600 if number >= 25 else 0) / packet.time_base)
    packet.pts, packet.dts = packet.pts + leap, packet.dts + leap


def live_tap(ring: PacketRing) -> PacketTap:
    return PacketTap(ring, origin_s=90.0, wall_ns=lambda _: 0, next_frame=count().__next__)


def _frames(ring: PacketRing) -> set[int]:
    return {packet.frame for packet in ring.since(-1.0)}


class Feed(LiveFeed):
    """A video as a live source."""

    def __init__(self, video: Path) -> None:
        super().__init__(stall_s=30, reconnect_max_s=1)
        self._path = str(video)

    def connect(self) -> LiveVideo:
        return LiveVideo(self._path, "gate", stall_s=30, format_=None, options={})


@pytest.mark.parametrize("read", [5, 31])
def test_a_camera_that_is_let_go_leaves_no_packet_of_its_pictures_behind(tmp_path: Path, read: int) -> None:
    """The first few are held until its clock is known, the last few until the pictures before them have come."""
    video = write_moving(tmp_path / "a.mp4", 60, gop=10, options={"bf": "2", "preset": "veryfast", "qp": "20"})
    ring = ring_in(tmp_path)
    feed = Feed(video)
    feed.tap = PacketTap(ring, origin_s=time.monotonic() - 10, wall_ns=lambda _: 0, next_frame=count().__next__)
    feed.open()
    for _ in range(read):
        feed.read()
    assert not _frames(ring) >= set(range(read))
    feed.close()
    assert _frames(ring) >= set(range(read))


@pytest.mark.parametrize("change", [lambda *_: None, unstamped, jumping])
def test_a_cameras_packets_have_even_times(
    video: Path, tmp_path: Path, change: Callable[[int, av.Packet[Any]], None]
) -> None:
    """With its timestamps, without any, and where they leap by an hour between two key frames."""
    ring = ring_in(tmp_path)
    play_live(video, live_tap(ring), change=change)
    assert times(ring) == pytest.approx([250.0 + n for n in range(60)], abs=0.01)
    assert [packet.frame for packet in ring.since(-1.0)] == list(range(60))


def test_another_size_within_a_connection_is_described_from_its_first_picture_on(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    large = Layout(128, 96)
    play_live(video, live_tap(ring), layout=lambda index: large if index >= 30 else LAYOUT)
    said = [
        msgspec.msgpack.decode(ring.description_of(ring.packet(number).kind), type=Description).width
        for number in range(60)
    ]
    assert said == 30 * [64] + 30 * [128]


def test_a_packet_whose_picture_never_comes_is_stored_without_a_frame(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    play_live(video, live_tap(ring), is_lost=lambda index: 20 <= index < 25)
    found = [packet.frame for packet in ring.since(-1.0)]
    assert found == [*range(20), *5 * [NO_FRAME], *range(20, 55)]
    assert times(ring) == pytest.approx([250.0 + n for n in range(60)], abs=0.01)


def test_a_capture_that_is_started_again_gives_frames_the_numbers_that_they_had(video: Path, tmp_path: Path) -> None:
    ring = ring_in(tmp_path)
    published = 30
    play(video, PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=count().__next__), packets=published)
    again = chain(repeat(published, published + 1), count(published + 1))
    tap = PacketTap(ring, origin_s=0.0, wall_ns=lambda _: 0, next_frame=again.__next__)
    tap.again = published
    play(video, tap)
    assert [packet.frame for packet in ring.since(-1.0)] == list(range(60))


@given(st.binary(max_size=200))
def test_garbage_is_no_parameter_set(data: bytes) -> None:
    for read in (nal.read_avc_configuration, nal.read_hevc_configuration):
        with suppress(IndexError, struct.error):
            size, sets = read(b"\1" + data)
            assert 1 <= size <= 4
            assert isinstance(sets, tuple)
    assert all(unit for unit in nal.annex_b(data))
    assert all(len(unit) <= len(data) for unit in nal.prefixed(data, 4))
