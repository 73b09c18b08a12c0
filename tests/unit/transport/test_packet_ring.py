from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import FrameExpired
from pipeline.transport.packet_ring import ROWS, PacketRing


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
        assert packet == (number, body(number), number % 10 == 0, number, number * 3600, number / 25, 7, number % 3)
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


def test_packets_of_another_kind_stand_alone(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 100_000)
    ring.begin(b"small")
    fill(ring, 20)
    ring.begin(b"large")
    assert ring.newest() is None
    fill(ring, 10)
    assert [packet.seq for packet in ring.since(0.0)] == list(range(20, 30))
    assert PacketRing.attach(tmp_path / "gate.packets").description == b"large"
    with pytest.raises(ValueError, match="room"):
        ring.begin(bytes(10_000))


def test_what_is_too_large_is_left_out_with_all_before_it(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 20_000)
    fill(ring, 5)
    fill(ring, 1, 50_000)
    assert ring.newest() is None
    fill(ring, 6)
    assert [packet.seq for packet in ring.since(0.0)] == [10]  # nothing before a keyframe
    fill(ring, 3, 10)
    assert [packet.seq for packet in ring.since(0.0)] == [10, 11, 12, 13]


def test_small_packets_are_limited_by_the_table(tmp_path: Path) -> None:
    ring = PacketRing.create(tmp_path / "gate.packets", 1_000_000)
    fill(ring, ROWS + 100, 10)
    assert len(ring.since(0.0)) <= ROWS
    assert ring.since(0.0)[-1].seq == ROWS + 99
