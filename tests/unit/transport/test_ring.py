"""The ring: what a reader gets is what was written, or nothing; and nobody is overtaken who must not be."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import FrameExpired, StartupError
from pipeline.transport.head import DETACHED, LOSSLESS, SKIPPABLE, Head
from pipeline.transport.ring import Reader, Writer, slots_for
from pipeline.transport.shared import SharedFile
from pipeline.types import I420, Layout

SMALL = Layout(32, 18)
OTHER = Layout(33, 19, "bt709", full_range=True, sample_aspect=(4, 3))


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    head = Head.create(tmp_path, "gate", [("inference", LOSSLESS), ("viewer", SKIPPABLE)])
    yield head
    head.close()


def put(writer: Writer, value: int, layout: Layout = SMALL) -> int:
    """Publishes a frame whose pixels all say ``value``."""
    image = writer.claim(layout)
    for plane in (image.y, image.u, image.v):
        plane[:] = value % 251
    return writer.publish(time_s=value / 25, captured_ns=1000 + value, wall_ns=2000 + value)


def value_of(image: I420) -> int:
    """The one value that all pixels have; fails for a picture that is mixed of two."""
    values = np.unique(np.concatenate([image.y.ravel(), image.u.ravel(), image.v.ravel()]))
    assert len(values) == 1, values
    return int(values[0])


def test_a_reader_gets_what_was_written(head: Head) -> None:
    writer, reader = Writer(head, lossless=True), Reader(head, "inference")
    assert [put(writer, i) for i in range(3)] == [0, 1, 2]
    frame = reader.frame(1)
    assert value_of(frame.image) == 1
    assert reader.valid(frame)
    ref = frame.ref
    assert (ref.source_id, ref.seq, ref.generation, ref.time_s) == ("gate", 1, 0, 0.04)
    assert (ref.captured_ns, ref.wall_ns) == (1001, 2001)


def test_a_lossless_writer_waits_for_the_slowest_lossless_reader_only(head: Head) -> None:
    writer, reader = Writer(head, lossless=True), Reader(head, "inference")
    written = 0
    while writer.has_room(SMALL):
        put(writer, written)
        written += 1
    assert written == slots_for(SMALL, waits=True)
    assert [value_of(reader.frame(i).image) for i in range(written)] == list(range(written))
    reader.move(1)
    assert writer.has_room(SMALL)
    put(writer, written)
    assert not writer.has_room(SMALL)
    head.detach("inference")
    assert head.part("inference") == DETACHED
    assert writer.has_room(SMALL)


def test_a_live_writer_overwrites_the_oldest(head: Head) -> None:
    writer, reader = Writer(head, lossless=False), Reader(head, "viewer")
    slots = slots_for(SMALL, waits=False)
    put(writer, 0)
    looked_at = reader.frame(0)
    for i in range(1, slots + 1):
        assert writer.has_room(SMALL)
        put(writer, i)
    assert not reader.valid(looked_at)
    with pytest.raises(FrameExpired):
        reader.frame(0)
    assert value_of(reader.frame(slots).image) == slots
    assert head.ref(0).time_s == 0.0, "the clocks are remembered longer than the pixels"


def test_a_slot_is_dead_before_its_first_byte_changes(head: Head) -> None:
    writer, reader = Writer(head, lossless=False), Reader(head, "viewer")
    for i in range(slots_for(SMALL, waits=False)):
        put(writer, i)
    frame = reader.frame(0)
    writer.claim(SMALL)
    assert not reader.valid(frame)
    assert head.next_seq == slots_for(SMALL, waits=False), "claimed is not published"


def test_a_source_that_waits_needs_fewer_slots_than_one_that_overwrites() -> None:
    large = Layout(1920, 1080)
    assert 6 <= slots_for(large, waits=True) < slots_for(large, waits=False) <= 16
    assert slots_for(Layout(7680, 4320), waits=True) == slots_for(Layout(7680, 4320), waits=False) == 6


def test_a_position_never_goes_back(head: Head) -> None:
    reader = Reader(head, "inference")
    reader.move(5)
    reader.move(3)
    assert reader.position == head.position("inference") == 5


def test_a_new_layout_opens_a_generation_and_the_old_one_goes_when_all_have_passed(head: Head) -> None:
    writer, reader, viewer = Writer(head, lossless=True), Reader(head, "inference"), Reader(head, "viewer")
    put(writer, 0)
    put(writer, 1, OTHER)
    put(writer, 2, OTHER)
    assert (value_of(reader.frame(0).image), value_of(reader.frame(1).image)) == (0, 1)
    frame = reader.frame(2)
    assert (frame.ref.generation, frame.image.layout) == (1, OTHER)
    assert head.file(0).exists()
    reader.move(3)
    put(writer, 3, OTHER)
    assert head.file(0).exists(), "the viewer is still in the old one"
    viewer.move(1)
    put(writer, 4, OTHER)
    assert not head.file(0).exists()
    with pytest.raises(FrameExpired):
        Reader(head, "viewer").frame(0)


def test_a_restarted_writer_goes_on_behind_the_last_published_frame(head: Head) -> None:
    first = Writer(head, lossless=True)
    put(first, 0)
    half_written = first.claim(SMALL)
    half_written.y[:] = 99
    second = Writer(head, lossless=True)
    assert second.last_time_s() == 0.0
    assert put(second, 1) == 1
    reader = Reader(head, "inference")
    assert [value_of(reader.frame(i).image) for i in (0, 1)] == [0, 1]


def test_the_first_end_is_believed(head: Head) -> None:
    writer = Writer(head, lossless=True)
    ends = [head.end_seq]
    put(writer, 0)
    head.end("end_of_stream")
    head.end("failed: too late")
    ends.append(head.end_seq)
    assert ends == [None, 1]
    assert head.end_reason == "end_of_stream"


def test_full_shared_memory_is_an_error_and_not_a_bus_error(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"is too small: .* MB are needed"):
        SharedFile.create(tmp_path / "huge", 1 << 55)
    assert list(tmp_path.iterdir()) == []


def test_another_files_bytes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.head").write_bytes(b"\0" * 8192)
    with pytest.raises(StartupError, match="another version"):
        Head.attach(tmp_path, "gate")
    (tmp_path / "gate.head").write_bytes(b"short")
    with pytest.raises(StartupError, match="5 bytes"):
        Head.attach(tmp_path, "gate")


def _write_many(directory: Path, frames: int) -> None:
    head = Head.attach(directory, "gate")
    writer = Writer(head, lossless=False)
    for i in range(frames):
        put(writer, i)
    head.end("end_of_stream")


def test_torture_no_frame_is_ever_mixed_with_another(tmp_path: Path) -> None:
    """A writer at full speed laps a reader: whatever passes ``valid`` afterwards is one whole frame."""
    head = Head.create(tmp_path, "gate", [("viewer", SKIPPABLE)])
    process = multiprocessing.get_context("spawn").Process(target=_write_many, args=(tmp_path, 20_000))
    process.start()
    reader, whole, lapped = Reader(head, "viewer"), 0, 0
    while head.end_seq is None:
        newest = head.next_seq - 1
        for seq in (newest, newest - slots_for(SMALL, waits=False) + 1):
            if seq < 0:
                continue
            try:
                frame = reader.frame(seq)
                copy = I420.empty(SMALL)
                frame.image.copy_to(copy)
                if not reader.valid(frame):
                    raise FrameExpired("lapped")
            except FrameExpired:
                lapped += 1
                continue
            assert value_of(copy) == seq % 251
            whole += 1
    process.join()
    assert process.exitcode == 0
    assert whole > 100
    assert lapped > 0, "the test is to catch the reader in the act"
    head.close()


def test_a_source_that_comes_back_after_its_pixels_were_removed_gets_new_ones(head: Head) -> None:
    writer = Writer(head, lossless=True)
    put(writer, 20)
    writer.close()
    head.file(0).unlink()
    writer = Writer(head, lossless=True)
    assert put(writer, 30) == 1
    assert head.generation == 1
    assert value_of(Reader(head, "inference").frame(1).image) == 30
