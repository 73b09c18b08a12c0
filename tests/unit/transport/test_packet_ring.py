from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import FrameExpired
from pipeline.transport.packet_ring import KINDS, NO_FRAME, ROWS, PacketRing


def body(number: int, size: int = 1000) -> bytes:
    return bytes([number % 251]) * (size + number % 7)


def fill(ring: PacketRing, count: int, size: int = 1000, gop: int = 10) -> None:
    for number in range(ring.next_number, ring.next_number + count):
        ring.append(
            body(number, size),
            keyframe=number % gop == 0,
            seq=number,
            pts=number * 3600,
            time_s=number / 25,
            wall_ns=7,
            delay=number % 3,
            frame=number - 2 if number > 1 else NO_FRAME,
        )


def test_packets_come_back_whole_until_others_take_their_place(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 20_000)
    reader = PacketRing.attach(tmp_path / "gate.packets")
    assert reader.newest() is None
    fill(ring, 100)
    there: list[int] = []
    for number in range(100):
        try:
            packet = reader.packet(number)
        except FrameExpired:
            assert not there
            continue
        there.append(number)
        assert packet[:8] == (number, body(number), number % 10 == 0, number, number * 3600, number / 25, 7, number % 3)
        assert (packet.frame, packet.kind) == (number - 2 if number > 1 else NO_FRAME, 0)
    assert 17 <= len(there) <= 20
    assert there[-1] == 99
    with pytest.raises(FrameExpired):
        reader.packet(100)
    reader.close()
    ring.close()
    ring.close()


def test_since_begins_with_a_whole_group_of_pictures(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 100_000)
    fill(ring, 48)
    assert [packet.seq for packet in ring.since(33 / 25)] == list(range(30, 48))
    assert [packet.seq for packet in ring.since(30 / 25)] == list(range(30, 48))
    assert [packet.seq for packet in ring.since(-1.0)] == list(range(48))
    assert [packet.seq for packet in ring.after(44 / 25)] == [45, 46, 47]
    fill(ring, 952)
    found = [packet.seq for packet in ring.since(0.0)]
    assert found[0] % 10 == 0
    assert found == list(range(found[0], 1000))
    assert 80 < len(found) <= 100


def test_packets_of_another_kind_stand_alone_and_those_before_keep_their_own(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 100_000)
    assert ring.description == b""
    ring.begin(b"small")
    fill(ring, 20)
    ring.begin(b"large")
    reader = PacketRing.attach(tmp_path / "gate.packets")
    assert reader.since(0.0) == []
    newest = reader.newest()
    assert newest is not None
    assert reader.description_of(newest.kind) == b"small"
    fill(ring, 10)
    assert [packet.seq for packet in reader.since(0.0)] == list(range(20, 30))
    assert reader.description == b"large"
    kinds = [reader.packet(number).kind for number in range(30)]
    assert [reader.description_of(kind) for kind in kinds] == 20 * [b"small"] + 10 * [b"large"]
    for number in range(KINDS - 1):
        ring.begin(b"%d" % number)
    with pytest.raises(FrameExpired):
        reader.description_of(kinds[0])
    assert reader.description_of(kinds[-1]) == b"large"
    with pytest.raises(ValueError, match="room"):
        ring.begin(bytes(10_000))


def test_a_reader_goes_on_behind_what_it_has(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 20_000)
    assert ring.behind(-1.0) == 0
    fill(ring, 10)
    ring.begin(b"large")
    fill(ring, 5)
    assert [ring.behind(time_s) for time_s in (-1.0, 0.0, 7 / 25, 7.5 / 25, 14 / 25, 9.0)] == [0, 1, 8, 8, 15, 15]
    fill(ring, 85)
    oldest = ring.behind(0.0)
    assert ring.packet(oldest).time_s > 0.0
    with pytest.raises(FrameExpired):
        ring.packet(oldest - 1)


def test_what_is_too_large_is_a_hole(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 20_000)
    fill(ring, 5)
    fill(ring, 1, 50_000)
    newest = ring.newest()
    assert newest is not None
    assert newest.number == 4
    assert [ring.behind(time_s) for time_s in (-1.0, 4 / 25, 9.0)] == [0, 5, 5]
    assert ring.since(0.0) == []
    with pytest.raises(FrameExpired):
        ring.packet(5)
    assert ring.packet(4).seq == 4
    fill(ring, 6)
    assert [ring.behind(time_s) for time_s in (2 / 25, 5 / 25, 6 / 25)] == [3, 5, 7]
    assert [packet.seq for packet in ring.since(0.0)] == [10, 11]  # nothing before a keyframe
    fill(ring, 3, 10)
    assert [packet.seq for packet in ring.since(0.0)] == [10, 11, 12, 13, 14]


def test_small_packets_are_limited_by_the_table(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 1_000_000)
    fill(ring, ROWS + 100, 10)
    assert len(ring.since(0.0)) <= ROWS
    assert ring.since(0.0)[-1].seq == ROWS + 99
